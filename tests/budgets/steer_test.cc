// A threshold that is steered to a fraction, on worths of many shapes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "budgets/steer.h"
#include "pith/error.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

using testing::ExpectError;

constexpr int kHeads = 6;
constexpr int kWindow = 128;
constexpr int kSinks = 4;
constexpr int kChunk = 512;
constexpr int kDecodeStep = 32;

using Random = std::mt19937;
using Draw = std::function<float(Random&, int64_t position, int head)>;

float Normal(Random& random, float mean, float deviation) {
  return std::normal_distribution<float>(mean, deviation)(random);
}

// Quantiles of a normal distribution around -5, as a calibration might have them.
std::vector<float> Calibrated() {
  Random random(1);
  std::vector<float> all;
  for (int i = 0; i < 25601; ++i) all.push_back(Normal(random, -5, 2));
  std::sort(all.begin(), all.end());
  std::vector<float> quantiles;
  for (size_t i = 0; i < all.size(); i += 100) quantiles.push_back(all[i]);
  return quantiles;
}

// What a session does with a steered threshold, without a model.
class Stream {
 public:
  Stream(double fraction, Draw draw, std::vector<float> quantiles = Calibrated())
      : fraction_(fraction),
        draw_(std::move(draw)),
        steering_(quantiles, kHeads),
        positions_(kHeads),
        worth_(kHeads) {}

  void Read(int64_t n) {
    for (const int64_t end = n_ + n; n_ < end;) {
      Append(std::min<int64_t>(kChunk, end - n_));
      most_while_reading_ = std::max(most_while_reading_, entries());
      Settle(end, Allowed(end));
      // Where the text ends is known, and nothing is above what it may come to.
      EXPECT_LE(entries(), Allowed(end));
    }
  }
  void Write(int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      Append(1);
      if (n_ - n_settled_ < kDecodeStep) continue;
      Settle(n_ + kSteerHorizon, Allowed(n_) + static_cast<int64_t>(kSteerSlack * n_ * kHeads));
    }
  }

  int64_t Allowed(int64_t n) const {
    return kHeads *
           std::max<int64_t>(kSinks + kWindow, std::ceil(fraction_ * static_cast<double>(n)));
  }
  int64_t entries() const {
    int64_t n = 0;
    for (const auto& head : positions_) n += std::ssize(head);
    return n;
  }
  double kept() const { return static_cast<double>(entries()) / static_cast<double>(kHeads * n_); }
  int64_t most_while_reading() const { return most_while_reading_; }
  // Entries from positions `begin` to `end`, as a part of all there were.
  double KeptOf(int64_t begin, int64_t end) const {
    int64_t n = 0;
    for (const auto& head : positions_) {
      n +=
          std::count_if(head.begin(), head.end(), [&](int32_t p) { return p >= begin && p < end; });
    }
    return static_cast<double>(n) / static_cast<double>(kHeads * (end - begin));
  }
  Steering& steering() { return steering_; }

 private:
  void Append(int64_t n) {
    for (int64_t i = 0; i < n; ++i, ++n_) {
      for (int h = 0; h < kHeads; ++h) {
        positions_[h].push_back(static_cast<int32_t>(n_));
        worth_[h].push_back(draw_(random_, n_, h));
      }
    }
  }
  void Settle(int64_t n_total, int64_t most) {
    std::vector<HeadEntries> heads;
    for (int h = 0; h < kHeads; ++h) heads.push_back({h, 0, positions_[h], worth_[h]});
    BudgetLimits limits;
    limits.sinks = kSinks;
    limits.window_begin = static_cast<int32_t>(n_ - kWindow);
    limits.total = Allowed(n_total);
    Verdicts verdicts;
    steering_.Allocate(heads, limits, {kWindow, n_settled_, n_total - n_, most}, verdicts);
    for (int h = 0; h < kHeads; ++h) {
      for (const int32_t i : verdicts[h]) {
        EXPECT_TRUE(positions_[h][i] >= kSinks && positions_[h][i] < n_ - kWindow);
        positions_[h].erase(positions_[h].begin() + i);
        worth_[h].erase(worth_[h].begin() + i);
      }
    }
    n_settled_ = n_;
  }

  double fraction_;
  Draw draw_;
  Steering steering_;
  Random random_{7};
  std::vector<std::vector<int32_t>> positions_;
  std::vector<std::vector<float>> worth_;
  int64_t n_ = 0;
  int64_t n_settled_ = 0;
  int64_t most_while_reading_ = 0;
};

struct Shape {
  std::string name;
  Draw draw;
};

std::vector<Shape> Shapes() {
  return {
      {"as calibrated", [](Random& r, int64_t, int) { return Normal(r, -5, 2); }},
      {"far above", [](Random& r, int64_t, int) { return Normal(r, 40, 0.1f); }},
      {"far below", [](Random& r, int64_t, int) { return Normal(r, -5000, 100); }},
      {"drifting up",
       [](Random& r, int64_t p, int) { return Normal(r, -5 + 0.002f * static_cast<float>(p), 2); }},
      {"drifting down",
       [](Random& r, int64_t p, int) { return Normal(r, -5 - 0.002f * static_cast<float>(p), 2); }},
      {"in waves", [](Random& r, int64_t p,
                      int) { return Normal(r, -5 + 2 * std::sin(static_cast<float>(p) / 80), 1); }},
      {"heads apart", [](Random& r, int64_t, int h) { return Normal(r, -9 + 2.0f * h, 1); }},
      {"heavy tails",
       [](Random& r, int64_t, int) { return std::cauchy_distribution<float>(-5, 1)(r); }},
      {"constant", [](Random&, int64_t, int) { return -3.0f; }},
      {"two values", [](Random& r, int64_t, int) { return r() % 2 ? -3.0f : -6.0f; }},
  };
}

TEST(Steering, AReadEndsAtItsFraction) {
  for (const Shape& shape : Shapes()) {
    for (const double fraction : {0.5, 0.25, 0.1}) {
      Stream stream(fraction, shape.draw);
      stream.Read(4000);
      EXPECT_LE(stream.kept(), fraction + 1e-3) << shape.name;
      EXPECT_GE(stream.kept(), fraction - 0.02) << shape.name;
      EXPECT_LE(stream.most_while_reading(), stream.Allowed(4000) + kHeads * kChunk) << shape.name;
    }
  }
}

TEST(Steering, WritingStaysNearTheFraction) {
  for (const Shape& shape : Shapes()) {
    for (const double fraction : {0.5, 0.25, 0.1}) {
      Stream stream(fraction, shape.draw);
      stream.Read(1000);
      for (int64_t n = 1000; n < 4000; n += 100) {
        stream.Write(100);
        if (fraction * static_cast<double>(n) < 2 * kWindow) continue;  // the window outweighs it
        EXPECT_NEAR(stream.kept(), fraction, 0.03) << shape.name << " at " << n;
      }
    }
  }
}

TEST(Steering, TheCacheGrowsWithWhatIsRead) {
  Stream stream(0.25, Shapes().front().draw);
  stream.Read(8000);
  // Early text has the same threshold as late text.
  const double early = stream.KeptOf(kSinks, 2000), late = stream.KeptOf(5500, 7500);
  EXPECT_NEAR(early, late, 0.03);
  // Of text that is worth more, more stays.
  Stream rich(0.25, [](Random& r, int64_t p, int) {
    return Normal(r, p >= 3000 && p < 3400 ? -2.0f : -5.0f, 2);
  });
  rich.Read(6000);
  EXPECT_GT(rich.KeptOf(3000, 3400), rich.KeptOf(1000, 2800) + 0.3);
}

TEST(Steering, WhatHasNoNumberOrIsPinnedLeavesTheOthersAlone) {
  for (const float odd :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    Stream stream(
        0.25, [odd](Random& r, int64_t p, int) { return p % 20 == 5 ? odd : Normal(r, -5, 2); });
    stream.Read(4000);
    EXPECT_NEAR(stream.kept(), 0.25, 0.01) << odd;
    stream.Write(2000);
    EXPECT_NEAR(stream.kept(), 0.25, 0.03) << odd;
    for (const float quantile : stream.steering().knowledge().quantiles) {
      EXPECT_TRUE(std::isfinite(quantile));
    }
  }
}

TEST(Steering, GoesOnFromWhatItKnew) {
  Stream stream(0.25, Shapes().front().draw);
  stream.Read(3000);
  const Steering::Knowledge& knowledge = stream.steering().knowledge();
  ASSERT_EQ(knowledge.quantiles.size(), static_cast<size_t>(Steering::kPoints));
  EXPECT_TRUE(std::is_sorted(knowledge.quantiles.begin(), knowledge.quantiles.end()));
  // The median and the outer quartiles of the distribution that was seen.
  EXPECT_NEAR(knowledge.quantiles[64], -6.35, 0.15);
  EXPECT_NEAR(knowledge.quantiles[128], -5, 0.15);
  EXPECT_NEAR(knowledge.quantiles[192], -3.65, 0.15);
}

TEST(Steering, OneQuantileIsEnough) {
  Stream stream(0.25, Shapes().front().draw, {0.5f});
  stream.Read(4000);
  EXPECT_NEAR(stream.kept(), 0.25, 0.01);
}

Plan Steerable(const std::string& keep, const std::string& budget) {
  auto calibration = std::make_shared<Calibration>();
  calibration->kvzap.emplace().quantiles = {-9, -5, 3};
  Plan plan;
  plan.scorer = "kvzap";
  plan.keep = Keep::Parse(keep);
  plan.budget = budget;
  plan.calibration = calibration;
  return plan;
}

TEST(Steers, WhereItIsAskedForAndTheScorerHasQuantiles) {
  EXPECT_TRUE(Steers(Steerable("25%", "threshold")));
  for (const char* budget : {"auto", "global", "uniform"}) {
    EXPECT_FALSE(Steers(Steerable("25%", budget))) << budget;
  }
  EXPECT_FALSE(Steers(Steerable("100%", "threshold")));
  EXPECT_FALSE(Steers(Steerable("tau=-4", "threshold")));
  Plan plan = Steerable("50%", "threshold");
  plan.keep.fraction = 1;
  EXPECT_FALSE(Steers(plan));
  plan = Steerable("25%", "threshold");
  plan.calibration = std::make_shared<Calibration>();
  ExpectError(ErrorCode::kInvalidArgument, "quantiles", [&] { Steers(plan); });
}

TEST(ReachOfTau, TellsWhereItLies) {
  EXPECT_EQ(ReachOfTau(Steerable("tau=-10", "auto")), TauReach::kBelowAll);
  EXPECT_EQ(ReachOfTau(Steerable("tau=-9", "auto")), TauReach::kWithin);
  EXPECT_EQ(ReachOfTau(Steerable("tau=3", "auto")), TauReach::kWithin);
  EXPECT_EQ(ReachOfTau(Steerable("tau=4", "auto")), TauReach::kAboveAll);
  EXPECT_EQ(ReachOfTau(Steerable("25%", "auto")), TauReach::kUnknown);
  Plan plan = Steerable("tau=4", "auto");
  plan.scorer = "knorm";
  EXPECT_EQ(ReachOfTau(plan), TauReach::kUnknown);
}

}  // namespace
}  // namespace pith
