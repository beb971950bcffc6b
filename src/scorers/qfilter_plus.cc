#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "base/fail.h"
#include "scorers/methods.h"

namespace pith {
namespace {

// Worth of the first entry of an order, of the last, and of those between, from what it costs to
// leave entries out. The entry at share u of the order is worth the slope of the loss there, so
// that taking entries of all heads by worth makes the sum of their losses least.
class WorthByRank {
 public:
  explicit WorthByRank(std::span<const float> loss) {
    // Only steps of the lower convex hull can be best; their slopes fall.
    for (int begin = 0; begin + 1 < KeepCurves::kPoints;) {
      int end = begin + 1;
      double steepest = -1;
      for (int i = begin + 1; i < KeepCurves::kPoints; ++i) {
        const double slope =
            (double{loss[static_cast<size_t>(begin)]} - loss[static_cast<size_t>(i)]) /
            (KeepCurves::Share(i) - KeepCurves::Share(begin));
        if (slope >= steepest) {
          steepest = slope;
          end = i;
        }
      }
      const double middle = 0.5 * (begin + end) / (KeepCurves::kPoints - 1);  // of sqrt u
      steps_.push_back({static_cast<float>(middle),
                        static_cast<float>(std::log(std::max(steepest, kLeastSlope)))});
      begin = end;
    }
  }

  float At(double share) const {
    const auto root = static_cast<float>(std::sqrt(share));
    const auto next = std::find_if(steps_.begin(), steps_.end(),
                                   [&](const Step& step) { return step.root > root; });
    float worth = next == steps_.end() ? steps_.back().worth : next->worth;
    if (next != steps_.begin() && next != steps_.end()) {
      const Step& before = next[-1];
      worth =
          std::lerp(before.worth, next->worth, (root - before.root) / (next->root - before.root));
    }
    return worth - kTilt * root;
  }

 private:
  struct Step {
    float root;   // of the share in its middle
    float worth;  // ln of its slope
  };
  static constexpr double kLeastSlope = 1e-12;
  // Keeps the order of entries where the slope is the same.
  static constexpr float kTilt = 0.05f;

  std::vector<Step> steps_;  // roots ascend, worths do not
};

class QFilterPlus : public Scorer {
 public:
  QFilterPlus(std::unique_ptr<Scorer> order, const KeepCurves& curves)
      : order_(std::move(order)), n_kv_heads_(curves.n_kv_heads) {
    for (size_t at = 0; at < curves.loss.size(); at += KeepCurves::kPoints) {
      worth_by_rank_.emplace_back(std::span(curves.loss).subspan(at, KeepCurves::kPoints));
    }
  }

  Needs needs() const override { return order_->needs(); }
  bool comparable_across_heads() const override { return true; }

  void JudgeLayer(const LayerEvidence& evidence,
                  std::span<const std::span<float>> worth) const override {
    order_->JudgeLayer(evidence, worth);
    // What may go of all that was read, not of what is left of it: a head that has given most of
    // its entries already is judged by the same part of its curve.
    const auto n_read = static_cast<double>(
        std::max<int64_t>(1, int64_t{evidence.window_begin} - evidence.n_sinks));
    std::vector<size_t> by_worth;
    for (size_t h = 0; h < evidence.heads.size(); ++h) {
      const std::span<const int32_t> positions = evidence.heads[h].positions;
      by_worth.clear();
      for (size_t i = 0; i < positions.size(); ++i) {
        if (positions[i] >= evidence.n_sinks && positions[i] < evidence.window_begin) {
          by_worth.push_back(i);
        } else {
          worth[h][i] = kUnjudged;
        }
      }
      std::sort(by_worth.begin(), by_worth.end(), [&](size_t a, size_t b) {
        return std::pair(worth[h][a], positions[a]) > std::pair(worth[h][b], positions[b]);
      });
      const WorthByRank& by_rank =
          worth_by_rank_[static_cast<size_t>(evidence.layer) * n_kv_heads_ + h];
      for (size_t rank = 0; rank < by_worth.size(); ++rank) {
        const double share = (static_cast<double>(rank) + 0.5) / n_read;
        worth[h][by_worth[rank]] = by_rank.At(std::min(share, 1.0));
      }
    }
  }

 private:
  std::unique_ptr<Scorer> order_;
  size_t n_kv_heads_;
  std::vector<WorthByRank> worth_by_rank_;  // [n_layers * n_kv_heads]
};

}  // namespace

std::unique_ptr<Scorer> MakeQFilterPlus(const Plan& plan, const ModelInfo& model) {
  if (plan.calibration == nullptr || !plan.calibration->queries || !plan.calibration->curves) {
    Fail(ErrorCode::kInvalidArgument,
         "the scorer qfilter+ needs a calibration with the queries' mean and variance and loss "
         "curves of the heads, but {}; \"pith calibrate -m MODEL -o X.pithcal\" makes one",
         plan.calibration == nullptr ? "there is no calibration" : "this one has none");
  }
  return std::make_unique<QFilterPlus>(MakeExpectedCalibrated(plan, model),
                                       *plan.calibration->curves);
}

}  // namespace pith
