// Scorers of whole layers against values of kvpress, and against their definitions.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/safetensors.h"
#include "calibrate/rope_layout.h"
#include "model/rope.h"
#include "scorers/scorer.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

using testing::ExpectError;

constexpr int kTokens = 128;
constexpr int kHeads = 9;
constexpr int kKvHeads = 3;
constexpr int kGroup = 3;
constexpr int kDim = 64;
constexpr int kSinks = 4;

ModelInfo GoldenModel() {
  ModelInfo model;
  model.name = "golden";
  model.n_layers = 30;
  model.n_heads = kHeads;
  model.n_kv_heads = kKvHeads;
  model.head_dim = kDim;
  return model;
}

Rope GoldenRope() {
  HyperParams h;
  h.head_dim = h.n_rot = kDim;
  h.rope_freq_base = 100000.0f;
  return Rope(h, {});
}

Plan PlanFor(const std::string& scorer) {
  Plan plan;
  plan.scorer = scorer;
  plan.keep = Keep::Parse("50%");
  return plan;
}

SafeTensors GoldenFile(int layer) {
  return SafeTensors::Open(std::string(PITH_TEST_DATA "/scorers_layer") + std::to_string(layer) +
                           ".safetensors");
}

// What a session would know of a golden layer whose heads hold some of the entries, in any order.
struct GoldenLayer {
  explicit GoldenLayer(int layer_in)
      : layer(layer_in),
        file(GoldenFile(layer)),
        q(file.Get("q").ToFloats()),
        k(file.Get("k").ToFloats()),
        v(file.Get("v").ToFloats()),
        held(kKvHeads) {
    for (auto& head : held) {
      head.resize(kTokens);
      std::iota(head.begin(), head.end(), 0);
    }
  }

  // worth [n_kv_heads][n], as `held` has the entries.
  std::vector<std::vector<float>> Judge(const Scorer& scorer, bool interleaved = false) const {
    const Needs needs = scorer.needs();
    EXPECT_TRUE(needs.whole_layers);
    LayerEvidence evidence;
    evidence.layer = layer;
    evidence.group = kGroup;
    evidence.n_sinks = kSinks;
    std::vector<std::vector<float>> keys(kKvHeads), values(kKvHeads), worth(kKvHeads);
    std::vector<Entries> heads;
    std::vector<std::span<float>> spans;
    for (size_t h = 0; h < kKvHeads; ++h) {
      for (const int32_t position : held[h]) {
        const auto row = static_cast<ptrdiff_t>((h * kTokens + position) * kDim);
        keys[h].insert(keys[h].end(), k.begin() + row, k.begin() + row + kDim);
        values[h].insert(values[h].end(), v.begin() + row, v.begin() + row + kDim);
      }
      const size_t n = held[h].size();
      worth[h].resize(n);
      heads.push_back({layer,
                       static_cast<int>(h),
                       held[h],
                       {keys[h].data(), n, kDim, kDim},
                       {values[h].data(), n, kDim, kDim}});
      spans.emplace_back(worth[h]);
    }
    evidence.heads = heads;
    std::vector<int32_t> positions;
    std::vector<float> asked;
    for (int t = kTokens - needs.recent_queries; t < kTokens; ++t) {
      positions.push_back(t);
      for (int head = 0; head < kHeads; ++head) {
        const ptrdiff_t row = (ptrdiff_t{head} * kTokens + t) * kDim;
        asked.insert(asked.end(), q.begin() + row, q.begin() + row + kDim);
      }
    }
    evidence.query_positions = positions;
    evidence.queries = {asked.data(), positions.size(), kHeads * kDim, kHeads * kDim};
    const std::vector<QueryMoments> moments = Moments();
    if (needs.query_moments) evidence.moments = moments;
    if (needs.future_positions > 0) {
      evidence.future = GoldenRope().Mean(kTokens, needs.future_positions);
      evidence.future.interleaved = interleaved;
    }
    scorer.JudgeLayer(evidence, spans);
    return worth;
  }

  std::vector<QueryMoments> Moments() const {
    const Rope rope = GoldenRope();
    std::vector<QueryMoments> moments(kHeads, QueryMoments(kDim));
    for (size_t head = 0; head < kHeads; ++head) {
      std::vector<float> rows(q.begin() + static_cast<ptrdiff_t>(head * kTokens * kDim),
                              q.begin() + static_cast<ptrdiff_t>((head + 1) * kTokens * kDim));
      for (int t = 0; t < kTokens; ++t) rope.At(t).TurnBack(rows.data() + t * kDim);
      moments[head].Add({rows.data() + kSinks * kDim, kTokens - kSinks, kDim, kDim});
    }
    return moments;
  }

  int layer;
  SafeTensors file;
  std::vector<float> q, k, v;
  std::vector<std::vector<int32_t>> held;  // positions
};

// The largest relative error of an element, or the error of all, relative to the norm, if larger.
double WorstError(std::span<const float> got, std::span<const float> want) {
  double worst = 0, square = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = double{got[i]} - want[i];
    const double relative = std::abs(error) / std::abs(double{want[i]});
    if (!(relative <= worst)) worst = relative;
    if (std::isnan(worst)) return worst;
    square += error * error;
    norm += double{want[i]} * want[i];
  }
  return std::max(worst, std::sqrt(square / norm));
}

class Baselines : public ::testing::TestWithParam<int> {};

TEST_P(Baselines, EqualKvpress) {
  struct Case {
    const char* scorer;
    const char* golden;
    size_t begin, end;  // what kvpress judges; the rest it keeps
  };
  for (const Case& each :
       {Case{"keydiff", "score.keydiff", 0, kTokens}, Case{"tova", "score.tova", 0, kTokens - 1},
        Case{"snapkv", "score.snapkv", 0, kTokens - 64},
        Case{"expected", "score.expected_attention", kSinks, kTokens}}) {
    const GoldenLayer golden(GetParam());
    const auto worth = golden.Judge(*MakeScorer(PlanFor(each.scorer), GoldenModel()));
    const std::vector<float> want = golden.file.Get(each.golden).ToFloats();
    for (size_t h = 0; h < kKvHeads; ++h) {
      const size_t n = each.end - each.begin;
      EXPECT_LE(WorstError(std::span(worth[h]).subspan(each.begin, n),
                           std::span(want).subspan(h * kTokens + each.begin, n)),
                1e-4)
          << each.scorer << " in head " << h;
      for (size_t i = 0; i < kTokens; ++i) {
        if (i >= each.begin && i < each.end) continue;
        EXPECT_EQ(worth[h][i], kUnjudged) << each.scorer << " " << i;
      }
    }
  }
}

// A heap has no order, and neither have the entries of a head.
TEST_P(Baselines, TheOrderOfEntriesMeansNothing) {
  std::mt19937_64 random(3);
  for (const std::string name : {"keydiff", "tova", "snapkv", "expected"}) {
    GoldenLayer golden(GetParam());
    for (auto& head : golden.held) {
      std::shuffle(head.begin(), head.end(), random);
      head.resize(90);
    }
    const auto scorer = MakeScorer(PlanFor(name), GoldenModel());
    const auto shuffled = golden.Judge(*scorer);
    const auto held = golden.held;
    for (auto& head : golden.held) std::sort(head.begin(), head.end());
    const auto sorted = golden.Judge(*scorer);
    for (size_t h = 0; h < kKvHeads; ++h) {
      for (size_t i = 0; i < held[h].size(); ++i) {
        const auto at = std::lower_bound(golden.held[h].begin(), golden.held[h].end(), held[h][i]);
        const float want = sorted[h][static_cast<size_t>(at - golden.held[h].begin())];
        EXPECT_FALSE(!(std::abs(shuffled[h][i] - want) <= 1e-5f * std::abs(want)))
            << name << " " << h << " " << held[h][i];
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layers, Baselines, ::testing::Values(3, 15));

// What query `t` of `head` pays for the entries held, in double precision.
std::map<int32_t, double> Paid(const GoldenLayer& golden, int head, int t) {
  std::map<int32_t, double> paid;
  double sum = 0;
  for (const int32_t position : golden.held[static_cast<size_t>(head / kGroup)]) {
    if (position > t) continue;
    double logit = 0;
    for (int d = 0; d < kDim; ++d) {
      logit += double{golden.q[(head * kTokens + t) * kDim + d]} *
               golden.k[(head / kGroup * kTokens + position) * kDim + d];
    }
    sum += paid[position] = std::exp(logit / 8);
  }
  for (auto& [position, part] : paid) part /= sum;
  return paid;
}

TEST(Tova, HeadsThatLostAnEntryPayNothingForIt) {
  GoldenLayer golden(15);
  std::erase_if(golden.held[0], [](int32_t p) { return p % 3 == 0; });
  std::erase_if(golden.held[2], [](int32_t p) { return p < 100 && p % 2 == 1; });
  const auto worth = golden.Judge(*MakeScorer(PlanFor("tova"), GoldenModel()));
  std::map<int32_t, double> want;
  for (int head = 0; head < kHeads; ++head) {
    for (const auto& [position, part] : Paid(golden, head, kTokens - 1)) {
      want[position] += part / kHeads;
    }
  }
  for (size_t h = 0; h < kKvHeads; ++h) {
    for (size_t i = 0; i < golden.held[h].size(); ++i) {
      const int32_t position = golden.held[h][i];
      if (position == kTokens - 1) continue;
      EXPECT_FALSE(!(std::abs(worth[h][i] - want[position]) <= 1e-4 * want[position]))
          << h << " " << position;
    }
  }
}

TEST(SnapKv, NeighboursAreThoseThatAreLeft) {
  GoldenLayer golden(3);
  std::erase_if(golden.held[1], [](int32_t p) { return p % 4 == 2 && p < 110; });
  const auto worth = golden.Judge(*MakeScorer(PlanFor("snapkv"), GoldenModel()));
  std::map<int32_t, double> paid;
  for (int g = 0; g < kGroup; ++g) {
    for (int t = kTokens - 64; t < kTokens; ++t) {
      for (const auto& [position, part] : Paid(golden, kGroup + g, t)) {
        paid[position] += part / (64 * kGroup);
      }
    }
  }
  const auto n = std::lower_bound(golden.held[1].begin(), golden.held[1].end(), kTokens - 64) -
                 golden.held[1].begin();
  ASSERT_EQ(n, 48);
  for (int i = 0; i < n; ++i) {
    double want = 0;
    for (int j = i - 2; j <= i + 2; ++j) {
      if (j >= 0 && j < n) want += paid[golden.held[1][static_cast<size_t>(j)]] / 5;
    }
    EXPECT_FALSE(!(std::abs(worth[1][static_cast<size_t>(i)] - want) <= 1e-4 * want)) << i;
  }
}

// A query whose own entry and all before it are gone has nothing to pay for.
TEST(SnapKv, QueriesBeforeAllEntriesDoNoHarm) {
  GoldenLayer golden(3);
  std::erase_if(golden.held[0], [](int32_t p) { return p < 100; });
  golden.held[2].clear();
  const auto worth = golden.Judge(*MakeScorer(PlanFor("snapkv"), GoldenModel()));
  for (const auto& head : worth) {
    for (const float w : head) EXPECT_TRUE(std::isfinite(w));
  }
}

TEST(KeyDiff, ZeroKeysGiveFiniteWorths) {
  GoldenLayer golden(3);
  std::fill(golden.k.begin(), golden.k.begin() + 3 * kDim, 0.0f);
  std::fill(golden.k.begin() + kTokens * kDim, golden.k.begin() + 2 * kTokens * kDim, 0.0f);
  const auto worth = golden.Judge(*MakeScorer(PlanFor("keydiff"), GoldenModel()));
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(worth[0][i], 0.0f);
  EXPECT_LT(worth[0][3], 0.0f);
  for (const float w : worth[1]) EXPECT_EQ(w, 0.0f);
}

// Statistics whose layer 15 is that of the golden text itself.
QueryStatistics GoldenStatistics(const GoldenLayer& golden) {
  QueryStatistics statistics{30, kHeads, kDim, {}, {}};
  statistics.mean.resize(size_t{30} * kHeads * kDim);
  statistics.covariance.resize(statistics.mean.size() * kDim);
  const auto moments = golden.Moments();
  for (size_t head = 0; head < kHeads; ++head) {
    const size_t row = static_cast<size_t>(golden.layer) * kHeads + head;
    std::ranges::copy(moments[head].mean(),
                      statistics.mean.begin() + static_cast<ptrdiff_t>(row * kDim));
    std::ranges::copy(moments[head].Covariance(),
                      statistics.covariance.begin() + static_cast<ptrdiff_t>(row * kDim * kDim));
  }
  return statistics;
}

TEST(ExpectedCalibrated, EqualsKvpressWithTheStatisticsOfTheText) {
  GoldenLayer golden(15);
  auto calibration = std::make_shared<Calibration>();
  calibration->queries = GoldenStatistics(golden);
  Plan plan = PlanFor("expected_calibrated");
  plan.calibration = calibration;
  const auto scorer = MakeScorer(plan, GoldenModel());
  EXPECT_FALSE(scorer->needs().query_moments);
  EXPECT_EQ(scorer->needs().recent_queries, 0);
  const auto worth = golden.Judge(*scorer);
  const std::vector<float> want = golden.file.Get("score.expected_attention").ToFloats();
  for (size_t h = 0; h < kKvHeads; ++h) {
    EXPECT_LE(WorstError(std::span(worth[h]).subspan(kSinks),
                         std::span(want).subspan(h * kTokens + kSinks, kTokens - kSinks)),
              1e-4);
  }
}

TEST(ExpectedCalibrated, VariancesAreACovarianceOfWhichOnlyTheDiagonalIsLeft) {
  GoldenLayer golden(15);
  for (const bool interleaved : {false, true}) {
    QueryStatistics statistics = GoldenStatistics(golden);
    QueryStatistics variances = statistics;
    variances.covariance.clear();
    for (size_t i = 0; i < statistics.covariance.size(); ++i) {
      const size_t row = i / kDim, column = i % kDim;
      if (row % kDim == column) {
        variances.covariance.push_back(statistics.covariance[i]);
      } else {
        statistics.covariance[i] = 0;
      }
    }
    std::vector<std::vector<float>> worths;
    for (const QueryStatistics& given : {statistics, variances}) {
      auto calibration = std::make_shared<Calibration>();
      calibration->queries = given;
      Plan plan = PlanFor("expected_calibrated");
      plan.calibration = calibration;
      for (auto& worth : golden.Judge(*MakeScorer(plan, GoldenModel()), interleaved)) {
        worths.push_back(std::move(worth));
      }
    }
    for (size_t h = 0; h < kKvHeads; ++h) {
      EXPECT_LE(WorstError(std::span(worths[kKvHeads + h]).subspan(kSinks),
                           std::span(worths[h]).subspan(kSinks)),
                1e-4);
    }
  }
}

TEST(ExpectedCalibrated, FollowsTheRopeLayoutOfTheModel) {
  const GoldenLayer golden(15);
  Calibration calibration;
  calibration.queries = GoldenStatistics(golden);
  ModelInfo model = GoldenModel();
  model.rope_interleaved = true;
  const QueryStatistics pairs = calibration.QueriesFor(model);
  const QueryStatistics& halves = *calibration.queries;
  for (size_t row = 15 * kHeads; row < 16 * kHeads; ++row) {
    for (int i = 0; i < kDim; ++i) {
      const auto at = static_cast<size_t>(InterleavedIndex(i, kDim));
      ASSERT_EQ(pairs.mean[row * kDim + at], halves.mean[row * kDim + i]);
      for (int j = 0; j < kDim; ++j) {
        const auto to = static_cast<size_t>(InterleavedIndex(j, kDim));
        ASSERT_EQ(pairs.covariance[(row * kDim + at) * kDim + to],
                  halves.covariance[(row * kDim + i) * kDim + j]);
      }
    }
  }
}

TEST(ExpectedCalibrated, NeedsStatisticsOfTheModel) {
  const ModelInfo model = GoldenModel();
  Plan plan = PlanFor("expected_calibrated");
  ExpectError(ErrorCode::kInvalidArgument, "there is no calibration",
              [&] { MakeScorer(plan, model); });
  auto calibration = std::make_shared<Calibration>();
  plan.calibration = calibration;
  ExpectError(ErrorCode::kInvalidArgument, "this one has none", [&] { MakeScorer(plan, model); });
  calibration->queries = GoldenStatistics(GoldenLayer(15));
  EXPECT_NE(MakeScorer(plan, model), nullptr);
  ModelInfo wide = model;
  wide.n_heads = 12;
  ExpectError(ErrorCode::kMismatch, "30 layers, 9 heads and 64 dimensions",
              [&] { MakeScorer(plan, wide); });
  calibration->queries->covariance.pop_back();
  ExpectError(ErrorCode::kInvalidArgument, "covariances, expected",
              [&] { MakeScorer(plan, model); });
  plan.scorer = "qfilter";
  ExpectError(ErrorCode::kInvalidArgument, "query statistics", [&] { MakeScorer(plan, model); });
}

TEST(WholeLayers, EntriesWaitForTheirJudgement) {
  const GoldenLayer golden(3);
  for (const std::string name : {"keydiff", "tova", "snapkv", "expected"}) {
    const auto scorer = MakeScorer(PlanFor(name), GoldenModel());
    EXPECT_FALSE(scorer->comparable_across_heads()) << name;
    std::vector<float> worth(2);
    scorer->Score({}, worth);
    EXPECT_EQ(worth, std::vector<float>(2, kUnjudged)) << name;
  }
  const auto knorm = MakeScorer(PlanFor("knorm"), GoldenModel());
  ExpectError(ErrorCode::kInvalidArgument, "when they are appended",
              [&] { knorm->JudgeLayer({}, {}); });
}

TEST(QueryMoments, AreThoseOfAllRowsHoweverTheyCome) {
  constexpr size_t kRows = 200, kWide = 24;
  std::mt19937_64 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> rows(kRows * kWide);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = 30 * (i % kWide == 3) + normal(random);
  std::vector<double> mean(kWide), covariance(kWide * kWide);
  for (size_t i = 0; i < rows.size(); ++i) mean[i % kWide] += double{rows[i]} / kRows;
  for (size_t i = 0; i < kRows; ++i) {
    for (size_t d = 0; d < kWide; ++d) {
      for (size_t e = 0; e < kWide; ++e) {
        covariance[d * kWide + e] +=
            (rows[i * kWide + d] - mean[d]) * (rows[i * kWide + e] - mean[e]) / kRows;
      }
    }
  }
  for (const size_t piece : {kRows, size_t{33}, size_t{1}}) {
    QueryMoments moments(kWide);
    for (size_t i = 0; i < kRows; i += piece) {
      const size_t n = std::min(piece, kRows - i);
      moments.Add({rows.data() + i * kWide, n, kWide, kWide});
    }
    EXPECT_EQ(moments.n(), static_cast<int64_t>(kRows));
    const std::vector<float> found = moments.Covariance();
    for (size_t d = 0; d < kWide; ++d) {
      EXPECT_FALSE(!(std::abs(moments.mean()[d] - mean[d]) <= 1e-5 * (1 + std::abs(mean[d]))));
      for (size_t e = 0; e < kWide; ++e) {
        EXPECT_FALSE(!(std::abs(found[d * kWide + e] - covariance[d * kWide + e]) <= 1e-4))
            << piece << " " << d << " " << e;
      }
    }
  }
}

}  // namespace
}  // namespace pith
