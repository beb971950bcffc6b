#include "budgets/steer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/fail.h"
#include "budgets/candidates.h"

namespace pith {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Tokens that the calibration counts for, so that the first chunk of a text already has its say,
// and after which the past is forgotten by halves, so that a text may change.
constexpr int64_t kPriorTokens = 256;
constexpr int64_t kMemoryTokens = 1024;

// Worths taken in at once; of more, every so manieth position of a head.
constexpr int64_t kMostSeen = 8192;

struct Point {
  float worth = 0;
  double weight = 0;
};

// Evenly spaced quantiles of points sorted by worth, each standing for what lies around it.
std::vector<float> Resample(std::span<const Point> points, int n) {
  double total = 0;
  for (const Point& point : points) total += point.weight;
  std::vector<float> out;
  out.reserve(static_cast<size_t>(n));
  size_t next = 0;
  double before = 0;  // of the points before `next`
  double last_middle = 0;
  for (int k = 0; k < n; ++k) {
    const double wanted = total * k / (n - 1);
    while (next < points.size() && before + points[next].weight / 2 < wanted) {
      last_middle = before + points[next].weight / 2;
      before += points[next++].weight;
    }
    if (next == 0 || next == points.size()) {
      out.push_back(next == 0 ? points.front().worth : points.back().worth);
      continue;
    }
    const double middle = before + points[next].weight / 2;
    const double t = middle > last_middle ? (wanted - last_middle) / (middle - last_middle) : 1;
    const double low = points[next - 1].worth;
    out.push_back(static_cast<float>(low + std::clamp(t, 0.0, 1.0) * (points[next].worth - low)));
  }
  return out;
}

std::vector<Point> Points(std::span<const float> quantiles, double weight) {
  std::vector<Point> points;
  if (quantiles.size() == 1) return {{quantiles.front(), weight}};
  const double each = weight / static_cast<double>(quantiles.size() - 1);
  for (const float worth : quantiles) points.push_back({worth, each});
  points.front().weight = points.back().weight = each / 2;
  return points;
}

}  // namespace

Steering::Steering(std::span<const float> quantiles, int64_t n_heads) : n_heads_(n_heads) {
  knowledge_.weight = static_cast<double>(kPriorTokens * n_heads);
  knowledge_.quantiles = Resample(Points(quantiles, 1), kPoints);
}

void Steering::See(std::span<const HeadEntries> heads, int32_t begin) {
  const auto is_new = [&](const HeadEntries& head, size_t i) {
    return head.positions[i] >= begin && std::isfinite(head.worth[i]);
  };
  int64_t n_new = 0;
  for (const HeadEntries& head : heads) {
    for (size_t i = 0; i < head.positions.size(); ++i) n_new += is_new(head, i);
  }
  if (n_new == 0) return;
  const int64_t stride = (n_new + kMostSeen - 1) / kMostSeen;
  std::vector<float> seen;
  for (size_t h = 0; h < heads.size(); ++h) {
    for (size_t i = 0; i < heads[h].positions.size(); ++i) {
      if ((heads[h].positions[i] + static_cast<int64_t>(h)) % stride == 0 && is_new(heads[h], i)) {
        seen.push_back(heads[h].worth[i]);
      }
    }
  }
  if (seen.empty()) return;
  const double weight = static_cast<double>(n_new);
  std::vector<Point> points = Points(knowledge_.quantiles, knowledge_.weight);
  for (const float worth : seen)
    points.push_back({worth, weight / static_cast<double>(seen.size())});
  std::sort(points.begin(), points.end(),
            [](const Point& a, const Point& b) { return a.worth < b.worth; });
  knowledge_.quantiles = Resample(points, kPoints);
  knowledge_.weight =
      std::min(knowledge_.weight + weight, static_cast<double>(kMemoryTokens * n_heads_));
}

double Steering::Quantile(double p) const {
  const double at = p * static_cast<double>(kPoints - 1);
  const size_t low = std::min(static_cast<size_t>(at), static_cast<size_t>(kPoints - 2));
  const double left = knowledge_.quantiles[low];
  return left + (at - static_cast<double>(low)) * (knowledge_.quantiles[low + 1] - left);
}

double Steering::FindTau(std::span<const HeadEntries> heads, const BudgetLimits& limits, int window,
                         int64_t n_to_come) const {
  int64_t n_decided = 0, n_undecided = 0, n_window = 0, n_pinned = 0;
  for (const HeadEntries& head : heads) {
    for (size_t i = 0; i < head.positions.size(); ++i) {
      if (head.positions[i] >= limits.window_begin) {
        ++n_window;
        n_pinned += head.worth[i] == std::numeric_limits<float>::infinity();
      } else if (head.positions[i] < limits.judged_begin || IsProtected(head, i, limits)) {
        ++n_decided;
      } else {
        ++n_undecided;
      }
    }
  }
  const int64_t n_new = n_to_come * n_heads_;
  const int64_t window_then = std::min(n_window + n_new, int64_t{window} * n_heads_);
  const int64_t n_leaving = n_window + n_new - window_then;
  const int64_t n_stay_anyway = std::min(n_pinned, n_leaving);
  const auto n_choose = static_cast<double>(n_undecided + n_leaving - n_stay_anyway);
  const auto n_may_stay =
      static_cast<double>(limits.total - n_decided - window_then - n_stay_anyway);
  if (n_may_stay <= 0) return kInfinity;
  if (n_may_stay >= n_choose) return -kInfinity;
  return Quantile(1 - n_may_stay / n_choose);
}

void Steering::Allocate(std::span<const HeadEntries> heads, const BudgetLimits& given,
                        const Course& course, Verdicts& out) {
  See(heads, static_cast<int32_t>(course.n_settled));
  BudgetLimits limits = given;
  if (course.n_to_come > 0) {
    limits.judged_begin = static_cast<int32_t>(course.n_settled - course.window);
    limits.tau = tau_ = FindTau(heads, limits, course.window, course.n_to_come);
    ThresholdBudget().Allocate(heads, limits, out);
    int64_t n_stay = 0;
    for (size_t h = 0; h < heads.size(); ++h) {
      n_stay += std::ssize(heads[h].positions) - std::ssize(out[h]);
    }
    if (n_stay <= course.most) return;
  }
  limits.total = course.most;
  ShareBudget("global", Sharing::kAll, 0).Allocate(heads, limits, out);
}

bool Steers(const Plan& plan) {
  if (plan.keep.kind != Keep::Kind::kFraction || plan.keep.fraction >= 1) return false;
  if (MakeBudget(plan, true)->name() != "threshold") return false;
  if (WorthQuantiles(plan).empty()) {
    Fail(ErrorCode::kInvalidArgument,
         "the budget threshold finds what keeps {} from the quantiles in a scorer's calibration, "
         "but {} has none; use a tau such as tau=-4, or the budget global",
         plan.keep.ToString(), plan.scorer);
  }
  return true;
}

std::span<const float> WorthQuantiles(const Plan& plan) {
  if (!plan.calibration) return {};
  const Calibration& calibration = *plan.calibration;
  if (plan.scorer == "kvzap" && calibration.kvzap) return calibration.kvzap->quantiles;
  if (plan.scorer == "kvzap+" && calibration.kvzap_plus) return calibration.kvzap_plus->quantiles;
  return {};
}

TauReach ReachOfTau(const Plan& plan) {
  const std::span<const float> quantiles = WorthQuantiles(plan);
  if (plan.keep.kind != Keep::Kind::kThreshold || quantiles.empty()) return TauReach::kUnknown;
  if (plan.keep.tau < quantiles.front()) return TauReach::kBelowAll;
  return plan.keep.tau > quantiles.back() ? TauReach::kAboveAll : TauReach::kWithin;
}

}  // namespace pith
