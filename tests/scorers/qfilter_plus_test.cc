// qfilter+: the order of expected_calibrated in every head, and of every head what its curve needs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "scorers/scorer.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

constexpr int kDim = 8, kKvHeads = 3, kHeads = 6, kTokens = 400, kSinks = 4, kWindow = 30;

ModelInfo SmallInfo() {
  ModelInfo model;
  model.n_layers = 1;
  model.n_heads = kHeads;
  model.n_kv_heads = kKvHeads;
  model.head_dim = kDim;
  return model;
}

// Losses that fall from `height` to 0 at different speeds.
std::shared_ptr<const Calibration> CurvesOf(const std::vector<std::pair<double, double>>& heads) {
  auto calibration = std::make_shared<Calibration>();
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  QueryStatistics queries{1, kHeads, kDim, {}, {}};
  for (int i = 0; i < kHeads * kDim; ++i) {
    queries.mean.push_back(normal(random));
    queries.covariance.push_back(0.5f + std::abs(normal(random)));
  }
  calibration->n_layers = 1;
  calibration->head_dim = kDim;
  calibration->queries = queries;
  KeepCurves curves{1, static_cast<int>(heads.size()), {}};
  for (const auto& [height, speed] : heads) {
    for (int i = 0; i < KeepCurves::kPoints; ++i) {
      const double share = KeepCurves::Share(i);
      curves.loss.push_back(static_cast<float>(height * (1 - share) * std::exp(-speed * share)));
    }
  }
  calibration->curves = curves;
  return calibration;
}

Plan PlanFor(const std::string& scorer, std::shared_ptr<const Calibration> calibration) {
  Plan plan;
  plan.scorer = scorer;
  plan.keep.kind = Keep::Kind::kFraction;
  plan.calibration = std::move(calibration);
  return plan;
}

// A layer of which `left` tokens are left, in any order.
struct Layer {
  explicit Layer(std::vector<int32_t> left) : positions(std::move(left)) {
    std::mt19937_64 random(7);
    std::normal_distribution<float> normal;
    const size_t n = positions.size();
    for (int h = 0; h < kKvHeads; ++h) {
      for (auto* rows : {&keys[h], &values[h]}) {
        for (size_t i = 0; i < n * kDim; ++i) rows->push_back(normal(random));
      }
      heads.push_back(
          {0, h, positions, {keys[h].data(), n, kDim, kDim}, {values[h].data(), n, kDim, kDim}});
    }
    evidence.group = kHeads / kKvHeads;
    evidence.n_sinks = kSinks;
    evidence.window_begin = kTokens - kWindow;
    evidence.future.cos.assign(kDim / 2, 0.5f);
    evidence.future.sin.assign(kDim / 2, 0.25f);
    evidence.heads = heads;
  }

  std::vector<std::vector<float>> Judge(const Scorer& scorer) const {
    std::vector<std::vector<float>> worth(kKvHeads, std::vector<float>(positions.size(), NAN));
    const std::vector<std::span<float>> spans(worth.begin(), worth.end());
    scorer.JudgeLayer(evidence, spans);
    return worth;
  }

  bool MayGo(size_t i) const { return positions[i] >= kSinks && positions[i] < kTokens - kWindow; }

  std::vector<int32_t> positions;
  std::vector<float> keys[kKvHeads], values[kKvHeads];
  std::vector<Entries> heads;
  LayerEvidence evidence;
};

std::vector<int32_t> AllTokens() {
  std::vector<int32_t> positions(kTokens);
  for (int32_t i = 0; i < kTokens; ++i) positions[static_cast<size_t>(i)] = i;
  std::shuffle(positions.begin(), positions.end(), std::mt19937_64(2));
  return positions;
}

const std::vector<std::pair<double, double>> kHeadCurves = {{1, 3}, {0.02, 20}, {0.3, 0.5}};

TEST(QFilterPlus, KeepsTheOrderOfEveryHead) {
  const auto calibration = CurvesOf(kHeadCurves);
  const Layer layer(AllTokens());
  const auto order = MakeScorer(PlanFor("expected_calibrated", calibration), SmallInfo());
  const auto scorer = MakeScorer(PlanFor("qfilter+", calibration), SmallInfo());
  EXPECT_TRUE(scorer->comparable_across_heads());
  EXPECT_TRUE(scorer->needs().whole_layers);
  EXPECT_FALSE(scorer->needs().query_moments);
  const auto plain = layer.Judge(*order), worth = layer.Judge(*scorer);
  for (int h = 0; h < kKvHeads; ++h) {
    std::vector<size_t> by;
    for (size_t i = 0; i < layer.positions.size(); ++i) {
      if (layer.MayGo(i)) {
        by.push_back(i);
      } else {
        EXPECT_EQ(worth[h][i], kUnjudged);
      }
    }
    std::sort(by.begin(), by.end(), [&](size_t a, size_t b) { return plain[h][a] > plain[h][b]; });
    for (size_t r = 0; r + 1 < by.size(); ++r) {
      ASSERT_GT(worth[h][by[r]], worth[h][by[r + 1]]) << h << " " << r;
      ASSERT_TRUE(std::isfinite(worth[h][by[r]]));
    }
  }
}

// What heads lose when `kept` entries of each are left.
double Loss(const KeepCurves& curves, const std::vector<int>& kept, int n) {
  double sum = 0;
  for (size_t h = 0; h < kept.size(); ++h) {
    const double at = std::sqrt(static_cast<double>(kept[h]) / n) * (KeepCurves::kPoints - 1);
    const int low = std::min(static_cast<int>(at), KeepCurves::kPoints - 2);
    const double part = (std::pow(at / (KeepCurves::kPoints - 1), 2) - KeepCurves::Share(low)) /
                        (KeepCurves::Share(low + 1) - KeepCurves::Share(low));
    const float* loss = curves.loss.data() + h * KeepCurves::kPoints + low;
    sum += loss[0] + part * (loss[1] - loss[0]);
  }
  return sum;
}

TEST(QFilterPlus, TakingTheBestOfAllHeadsLosesLeast) {
  const auto calibration = CurvesOf(kHeadCurves);
  const Layer layer(AllTokens());
  const auto worth = layer.Judge(*MakeScorer(PlanFor("qfilter+", calibration), SmallInfo()));
  constexpr int n = kTokens - kWindow - kSinks;
  std::vector<float> all;
  for (const auto& head : worth) {
    std::copy_if(head.begin(), head.end(), std::back_inserter(all),
                 [](float w) { return w != kUnjudged; });
  }
  std::sort(all.begin(), all.end(), std::greater<>());
  for (const int n_kept : {60, 200, 500, 900}) {
    std::vector<int> kept;
    for (const auto& head : worth) {
      kept.push_back(static_cast<int>(std::count_if(head.begin(), head.end(), [&](float w) {
        return w != kUnjudged && w > all[static_cast<size_t>(n_kept)];
      })));
    }
    double least = INFINITY;
    for (int a = 0; a <= n; ++a) {
      for (int b = 0; b <= n; ++b) {
        const int c = n_kept - a - b;
        if (c >= 0 && c <= n) least = std::min(least, Loss(*calibration->curves, {a, b, c}, n));
      }
    }
    const double even = Loss(*calibration->curves, {n_kept / 3, n_kept / 3, n_kept / 3}, n);
    const double found = Loss(*calibration->curves, kept, n);
    EXPECT_LE(found, least + 0.03 * (even - least)) << n_kept;
    EXPECT_LT(least, 0.98 * even);
  }
}

// A head that has given entries away stands where it is on its curve.
TEST(QFilterPlus, RankCountsAllThatWasRead) {
  const auto calibration = CurvesOf(kHeadCurves);
  const auto scorer = MakeScorer(PlanFor("qfilter+", calibration), SmallInfo());
  const std::vector<int32_t> all = AllTokens();
  std::vector<int32_t> half;
  std::copy_if(all.begin(), all.end(), std::back_inserter(half),
               [](int32_t p) { return p % 2 == 0 || p >= kTokens - kWindow; });
  const auto highest = [](const std::vector<float>& worth, size_t rank) {
    std::vector<float> sorted;
    std::copy_if(worth.begin(), worth.end(), std::back_inserter(sorted),
                 [](float w) { return w != kUnjudged; });
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    return sorted[rank];
  };
  const auto whole = Layer(all).Judge(*scorer), rest = Layer(half).Judge(*scorer);
  for (int h = 0; h < kKvHeads; ++h) {
    for (const size_t rank : {0, 10, 100}) {
      EXPECT_EQ(highest(whole[h], rank), highest(rest[h], rank));
    }
  }
}

TEST(QFilterPlus, NeedsCurvesOfTheModel) {
  const auto made = [](std::shared_ptr<const Calibration> calibration) {
    return [=] { MakeScorer(PlanFor("qfilter+", calibration), SmallInfo()); };
  };
  testing::ExpectError(ErrorCode::kInvalidArgument, "there is no calibration", made(nullptr));
  auto without = std::make_shared<Calibration>(*CurvesOf(kHeadCurves));
  without->curves.reset();
  testing::ExpectError(ErrorCode::kInvalidArgument, "this one has none", made(without));
  testing::ExpectError(ErrorCode::kMismatch, "66 losses of 1 layers and 2 KV heads",
                       made(CurvesOf({{1, 1}, {1, 1}})));
}

}  // namespace
}  // namespace pith
