// Scorers against arrays made by the methods' own packages, and what MakeScorer refuses.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/safetensors.h"
#include "scorers/scorer.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

using testing::ExpectError;

// The shape of the golden arrays' model.
ModelInfo GoldenModel() {
  ModelInfo model;
  model.name = "golden";
  model.n_layers = 30;
  model.n_heads = 9;
  model.n_kv_heads = 3;
  model.head_dim = 64;
  model.fingerprint = "0123456789abcdef";
  return model;
}

Plan PlanFor(const std::string& scorer) {
  Plan plan;
  plan.scorer = scorer;
  plan.keep.kind = Keep::Kind::kEntries;
  plan.keep.entries = 512;
  return plan;
}

std::shared_ptr<const Calibration> GoldenCalibration() {
  static const auto calibration = std::make_shared<const Calibration>(
      Calibration::Load(PITH_TEST_DATA "/qfilters.safetensors"));
  return calibration;
}

// What is wrong with `got`, relative to the larger of `want` and a part of its typical size, below
// which a sum of products that cancel has no digits left: a hundredth for 64 of them.
double WorstError(std::span<const float> got, std::span<const float> want, double part = 0.01) {
  double typical = 0;
  for (const float w : want) typical += std::abs(w) / static_cast<double>(want.size());
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(static_cast<double>(got[i]) - want[i]) /
                         std::max<double>(std::abs(want[i]), typical * part);
    if (!(error <= worst)) worst = error;  // NaN stays
    if (std::isnan(worst)) break;
  }
  return worst;
}

// Scores of one golden layer, [n_kv_heads, T], keys given in pieces of `piece` entries.
std::vector<float> ScoreLayer(const Scorer& scorer, const std::vector<float>& keys, int layer,
                              size_t n_kv_heads, size_t n, size_t head_dim, size_t piece) {
  std::vector<float> worth(n_kv_heads * n);
  std::vector<int32_t> positions(n);
  for (size_t i = 0; i < n; ++i) positions[i] = static_cast<int32_t>(i);
  for (size_t head = 0; head < n_kv_heads; ++head) {
    for (size_t i = 0; i < n; i += piece) {
      const size_t count = std::min(piece, n - i);
      const MatrixView<const float> rows{keys.data() + (head * n + i) * head_dim, count, head_dim,
                                         head_dim};
      scorer.Score(
          {layer, static_cast<int>(head), std::span(positions).subspan(i, count), rows, {}},
          std::span(worth).subspan(head * n + i, count));
    }
  }
  return worth;
}

class Golden : public ::testing::TestWithParam<int> {};

TEST_P(Golden, QFilterAndKnormEqualTheirSources) {
  const int layer = GetParam();
  const SafeTensors golden = SafeTensors::Open(std::string(PITH_TEST_DATA "/scorers_layer") +
                                               std::to_string(layer) + ".safetensors");
  const SafeTensor& k = golden.Get("k");
  ASSERT_EQ(k.shape, (std::vector<int64_t>{3, 128, 64}));
  const std::vector<float> keys = k.ToFloats();
  for (const std::string name : {"qfilter", "knorm"}) {
    Plan plan = PlanFor(name);
    plan.calibration = GoldenCalibration();
    const auto scorer = MakeScorer(plan, GoldenModel());
    ASSERT_NE(scorer, nullptr);
    const std::vector<float> want = golden.Get("score." + name).ToFloats();
    for (const size_t piece : {128, 7, 1}) {
      const std::vector<float> got = ScoreLayer(*scorer, keys, layer, 3, 128, 64, piece);
      EXPECT_LE(WorstError(got, want), 1e-4) << name << " in pieces of " << piece;
    }
  }
}

// A surrogate whose layer `layer` is the golden one and whose others are zero.
Calibration GoldenSurrogate(const SafeTensors& golden, int layer, bool mlp) {
  const auto values = [&](const char* name) { return golden.Get(name).ToFloats(); };
  Calibration calibration;
  KvzapSurrogate& surrogate = calibration.kvzap.emplace();
  surrogate.n_embd = 576;
  surrogate.n_kv_heads = 3;
  surrogate.n_hidden = mlp ? 72 : 0;
  KvzapLayer zeros;
  if (mlp) zeros = {std::vector<float>(72 * 576), std::vector<float>(72), {}, {}};
  zeros.weight.resize(3 * (mlp ? 72 : 576));
  zeros.bias.resize(3);
  surrogate.layers.resize(30, zeros);
  KvzapLayer& target = surrogate.layers[layer];
  if (mlp) {
    target = {values("kvzap.mlp.0.weight"), values("kvzap.mlp.0.bias"),
              values("kvzap.mlp.2.weight"), values("kvzap.mlp.2.bias")};
  } else {
    target.weight = values("kvzap.linear.weight");
    target.bias = values("kvzap.linear.bias");
  }
  return calibration;
}

TEST_P(Golden, KvzapEqualsItsDefinition) {
  const int layer = GetParam();
  const SafeTensors golden = SafeTensors::Open(std::string(PITH_TEST_DATA "/scorers_layer") +
                                               std::to_string(layer) + ".safetensors");
  const SafeTensor& hidden = golden.Get("hidden");
  ASSERT_EQ(hidden.shape, (std::vector<int64_t>{128, 576}));
  const std::vector<float> rows = hidden.ToFloats();
  for (const bool mlp : {false, true}) {
    Plan plan = PlanFor("kvzap");
    plan.calibration = std::make_shared<Calibration>(GoldenSurrogate(golden, layer, mlp));
    ModelInfo model = GoldenModel();
    model.n_embd = 576;
    const auto scorer = MakeScorer(plan, model);
    EXPECT_TRUE(scorer->needs().hidden_states);
    EXPECT_TRUE(scorer->comparable_across_heads());
    const std::vector<float> want =
        golden.Get(mlp ? "score.kvzap.mlp" : "score.kvzap.linear").ToFloats();
    for (const size_t piece : {128, 100, 7, 1}) {
      std::vector<float> got(want.size());
      for (size_t i = 0; i < 128; i += piece) {
        const size_t n = std::min<size_t>(piece, 128 - i);
        std::vector<float> worth(3 * n);
        scorer->ScoreHidden({layer, {rows.data() + i * 576, n, 576, 576}}, worth);
        for (size_t h = 0; h < 3; ++h) {
          std::copy_n(worth.data() + h * n, n, got.data() + h * 128 + i);
        }
      }
      EXPECT_LE(WorstError(got, want, 1.0), 1e-5)
          << (mlp ? "mlp" : "linear") << " in pieces of " << piece;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layers, Golden, ::testing::Values(3, 15));

TEST(Kvzap, NeedsASurrogateOfTheModel) {
  const SafeTensors golden = SafeTensors::Open(PITH_TEST_DATA "/scorers_layer3.safetensors");
  ModelInfo model = GoldenModel();
  model.n_embd = 576;
  Plan plan = PlanFor("kvzap");
  ExpectError(ErrorCode::kInvalidArgument, "there is no calibration",
              [&] { MakeScorer(plan, model); });
  plan.calibration = GoldenCalibration();
  ExpectError(ErrorCode::kInvalidArgument, "this one has none", [&] { MakeScorer(plan, model); });
  plan.calibration = std::make_shared<Calibration>(GoldenSurrogate(golden, 3, true));
  EXPECT_NE(MakeScorer(plan, model), nullptr);
  auto broken = std::make_shared<Calibration>(GoldenSurrogate(golden, 3, true));
  broken->kvzap->layers[7].bias_in.pop_back();
  Plan bad = plan;
  bad.calibration = broken;
  ExpectError(ErrorCode::kInvalidArgument, "layer 7 of the surrogate",
              [&] { MakeScorer(bad, model); });
  ModelInfo narrow = model;
  narrow.n_embd = 512;
  ExpectError(ErrorCode::kMismatch, "hidden states of 576", [&] { MakeScorer(plan, narrow); });
  ModelInfo shallow = model;
  shallow.n_layers = 29;
  ExpectError(ErrorCode::kMismatch, "for 30 layers", [&] { MakeScorer(plan, shallow); });
  plan.scorer = "qfilter";
  ExpectError(ErrorCode::kInvalidArgument, "has only a surrogate",
              [&] { MakeScorer(plan, model); });
  const auto knorm = MakeScorer(PlanFor("knorm"), model);
  ExpectError(ErrorCode::kInvalidArgument, "not hidden states",
              [&] { knorm->ScoreHidden({}, {}); });
}

TEST(WorstError, FailsOnNan) {
  const std::vector<float> want = {1, 2}, nan = {1, NAN}, first = {NAN, 2};
  EXPECT_FALSE(WorstError(nan, want) <= 1e-4);
  EXPECT_FALSE(WorstError(first, want) <= 1e-4);
  EXPECT_TRUE(WorstError(want, want) <= 0);
}

TEST(QFilter, FollowsTheRopeLayoutOfTheModel) {
  ModelInfo model = GoldenModel();
  Plan plan = PlanFor("qfilter");
  plan.calibration = GoldenCalibration();
  const auto halves = MakeScorer(plan, model);
  model.rope_interleaved = true;
  const auto pairs = MakeScorer(plan, model);
  std::vector<float> key(64), permuted(64);
  for (int i = 0; i < 64; ++i) key[i] = std::sin(static_cast<float>(i) + 1);
  for (int i = 0; i < 32; ++i) {
    permuted[2 * i] = key[i];
    permuted[2 * i + 1] = key[i + 32];
  }
  const int32_t position = 0;
  float a = 0, b = 0, c = 0;
  const auto entries = [&](const std::vector<float>& k) {
    return Entries{29, 2, {&position, 1}, {k.data(), 1, 64, 64}, {}};
  };
  halves->Score(entries(key), {&a, 1});
  pairs->Score(entries(permuted), {&b, 1});
  pairs->Score(entries(key), {&c, 1});
  EXPECT_NEAR(a, b, 1e-5);
  EXPECT_GT(std::abs(a - c), 1e-3);
}

TEST(QFilter, ReadsStridedKeys) {
  Plan plan = PlanFor("qfilter");
  plan.calibration = GoldenCalibration();
  const std::vector<int32_t> positions = {0, 1, 2};
  std::vector<float> keys(3 * 80);
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = std::cos(static_cast<float>(i));
  for (const char* name : {"qfilter", "knorm"}) {
    plan.scorer = name;
    const auto scorer = MakeScorer(plan, GoldenModel());
    std::vector<float> worth(3), single(3);
    scorer->Score({1, 1, positions, {keys.data(), 3, 64, 80}, {}}, worth);
    for (size_t i = 0; i < 3; ++i) {
      const std::vector<float> row(keys.begin() + static_cast<ptrdiff_t>(i * 80),
                                   keys.begin() + static_cast<ptrdiff_t>(i * 80 + 64));
      scorer->Score({1, 1, std::span(positions).subspan(i, 1), {row.data(), 1, 64, 64}, {}},
                    std::span(single).subspan(i, 1));
    }
    EXPECT_LE(WorstError(worth, single), 1e-5) << name;
  }
}

TEST(StreamingLlm, TheMostRecentIsWorthMost) {
  const auto scorer = MakeScorer(PlanFor("streaming_llm"), GoldenModel());
  const std::vector<int32_t> positions = {3, 0, 100000, 99999};
  std::vector<float> worth(4);
  scorer->Score({0, 0, positions, {}, {}}, worth);
  EXPECT_GT(worth[2], worth[3]);
  EXPECT_GT(worth[3], worth[0]);
  EXPECT_GT(worth[0], worth[1]);
}

TEST(RandomScorer, DependsOnSeedHeadAndPositionAlone) {
  const ModelInfo model = GoldenModel();
  Plan plan = PlanFor("random");
  constexpr int kN = 10000;
  std::vector<int32_t> positions(kN);
  for (int i = 0; i < kN; ++i) positions[i] = i;
  const auto score = [&](int layer, int head, size_t piece) {
    const auto scorer = MakeScorer(plan, model);
    std::vector<float> worth(kN);
    for (size_t i = 0; i < kN; i += piece) {
      const size_t n = std::min<size_t>(piece, kN - i);
      scorer->Score({layer, head, std::span(positions).subspan(i, n), {}, {}},
                    std::span(worth).subspan(i, n));
    }
    return worth;
  };
  const std::vector<float> worth = score(2, 1, kN);
  EXPECT_EQ(worth, score(2, 1, 17));
  EXPECT_NE(worth, score(2, 2, kN));
  EXPECT_NE(worth, score(1, 1, kN));
  plan.seed = 1;
  EXPECT_NE(worth, score(2, 1, kN));

  // Uniform: each tenth holds 1000, give or take five standard deviations of 30.
  std::map<int, int> tenths;
  for (const float w : worth) {
    ASSERT_GE(w, 0.0f);
    ASSERT_LT(w, 1.0f);
    ++tenths[static_cast<int>(w * 10)];
  }
  for (const auto& [tenth, count] : tenths) EXPECT_NEAR(count, kN / 10, 150) << tenth;
  EXPECT_GT(std::set<float>(worth.begin(), worth.end()).size(), kN * 99u / 100);
}

TEST(MakeScorer, KeepsAllOrRefuses) {
  ModelInfo model = GoldenModel();
  model.n_embd = 576;
  EXPECT_EQ(MakeScorer(Plan{}, model), nullptr);
  const auto both = std::make_shared<Calibration>(*GoldenCalibration());
  both->kvzap =
      GoldenSurrogate(SafeTensors::Open(PITH_TEST_DATA "/scorers_layer3.safetensors"), 3, false)
          .kvzap;
  KvzapPlusSurrogate& plus = both->kvzap_plus.emplace();
  plus.n_embd = 576;
  plus.n_kv_heads = 3;
  plus.head_dim = 64;
  plus.layers.assign(30, {std::vector<float>(6 * 576), std::vector<float>(6 * 64),
                          std::vector<float>(12), std::vector<float>(6)});
  QueryStatistics& queries = both->queries.emplace();
  queries.n_layers = 30;
  queries.n_heads = 9;
  queries.head_dim = 64;
  queries.mean.resize(30 * 9 * 64);
  queries.covariance.resize(30 * 9 * 64);
  both->curves = KeepCurves{30, 3, std::vector<float>(30 * 3 * KeepCurves::kPoints)};
  for (const std::string& name : ScorerNames()) {
    Plan plan = PlanFor(name);
    plan.calibration = both;
    EXPECT_NE(MakeScorer(plan, model), nullptr) << name;
  }
  ExpectError(
      ErrorCode::kInvalidArgument,
      "expected one of qfilter, qfilter+, knorm, streaming_llm, random, kvzip, kvzip+, kvzap, "
      "kvzap+, snapkv, tova, keydiff, expected, expected_calibrated",
      [&] { MakeScorer(PlanFor("h2o"), model); });
  ExpectError(ErrorCode::kInvalidArgument, "pith calibrate -m MODEL -o X.pithcal",
              [&] { MakeScorer(PlanFor("qfilter"), model); });
  Plan plan = PlanFor("qfilter");
  plan.calibration = GoldenCalibration();
  model.n_layers = 29;
  ExpectError(ErrorCode::kMismatch, "29", [&] { MakeScorer(plan, model); });
}

}  // namespace
}  // namespace pith
