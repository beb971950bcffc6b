// kvzap+ against its definition in double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "calibrate/rope_layout.h"
#include "scorers/scorer.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

using testing::ExpectError;

constexpr int kEmbd = 48;
constexpr int kHeads = 3;
constexpr int kDim = 8;
constexpr int kLayers = 2;

ModelInfo SmallModel(bool interleaved) {
  ModelInfo model;
  model.n_layers = kLayers;
  model.n_heads = 2 * kHeads;
  model.n_kv_heads = kHeads;
  model.head_dim = kDim;
  model.n_embd = kEmbd;
  model.rope_interleaved = interleaved;
  return model;
}

std::vector<float> Noise(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

std::shared_ptr<Calibration> MakeCalibration() {
  auto calibration = std::make_shared<Calibration>();
  calibration->n_layers = kLayers;
  calibration->n_kv_heads = kHeads;
  calibration->head_dim = kDim;
  calibration->q_filters = Noise(kLayers * kHeads * kDim, 1);
  KvzapPlusSurrogate& surrogate = calibration->kvzap_plus.emplace();
  surrogate.n_embd = kEmbd;
  surrogate.n_kv_heads = kHeads;
  surrogate.head_dim = kDim;
  for (uint64_t i = 0; i < kLayers; ++i) {
    surrogate.layers.push_back({Noise(2 * kHeads * kEmbd, 10 + i), Noise(2 * kHeads * kDim, 20 + i),
                                Noise(2 * kHeads * 2, 30 + i), Noise(2 * kHeads, 40 + i)});
  }
  return calibration;
}

Plan PlusPlan() {
  Plan plan;
  plan.scorer = "kvzap+";
  plan.keep = Keep::Parse("50%");
  plan.calibration = MakeCalibration();
  return plan;
}

// Of one entry, and what rounding may make of it: the sum of the magnitudes that are added.
struct Wanted {
  double worth = 0;
  double magnitude = 0;
};

Wanted Reference(const KvzapPlusLayer& layer, int h, bool interleaved, const float* hidden,
                 const float* key, const float* value) {
  double key_square = 0, value_square = 0;
  for (int d = 0; d < kDim; ++d) {
    key_square += static_cast<double>(key[d]) * key[d];
    value_square += static_cast<double>(value[d]) * value[d];
  }
  Wanted wanted{-1e300, 0};
  for (int row : {h, kHeads + h}) {
    double sum = 0;
    const auto add = [&](double weight, double input) {
      sum += weight * input;
      wanted.magnitude += std::abs(weight * input);
    };
    add(layer.bias[row], 1);
    for (int i = 0; i < kEmbd; ++i) add(layer.weight[row * kEmbd + i], hidden[i]);
    for (int d = 0; d < kDim; ++d) {
      add(layer.key_weight[row * kDim + d], key[interleaved ? InterleavedIndex(d, kDim) : d]);
    }
    add(layer.norm_weight[2 * row], std::log(key_square) / 2);
    add(layer.norm_weight[2 * row + 1], std::log(value_square) / 2);
    wanted.worth = std::max(wanted.worth, sum);
  }
  return wanted;
}

TEST(KvzapPlus, EqualsItsDefinition) {
  constexpr size_t kRows = 37;
  const auto hidden = Noise(kRows * kEmbd, 2);
  const auto keys = Noise(kRows * kHeads * kDim, 3);
  const auto values = Noise(kRows * kHeads * kDim, 4);
  const Plan plan = PlusPlan();
  for (const bool interleaved : {false, true}) {
    const auto scorer = MakeScorer(plan, SmallModel(interleaved));
    EXPECT_TRUE(scorer->needs().hidden_states);
    EXPECT_TRUE(scorer->comparable_across_heads());
    for (int layer = 0; layer < kLayers; ++layer) {
      for (const size_t n : {size_t{1}, kRows}) {
        std::vector<float> worth(kHeads * n);
        scorer->ScoreHidden({layer,
                             {hidden.data(), n, kEmbd, kEmbd},
                             {keys.data(), n, kHeads * kDim, kHeads * kDim},
                             {values.data(), n, kHeads * kDim, kHeads * kDim}},
                            worth);
        for (int h = 0; h < kHeads; ++h) {
          for (size_t i = 0; i < n; ++i) {
            const Wanted wanted = Reference(
                plan.calibration->kvzap_plus->layers[static_cast<size_t>(layer)], h, interleaved,
                hidden.data() + i * kEmbd, keys.data() + (i * kHeads + h) * kDim,
                values.data() + (i * kHeads + h) * kDim);
            const double error = std::abs(worth[h * n + i] - wanted.worth);
            EXPECT_FALSE(!(error <= 1e-6 * wanted.magnitude)) << layer << " " << h << " " << i;
          }
        }
      }
    }
  }
}

TEST(KvzapPlus, ZeroRowsGiveFiniteWorths) {
  const std::vector<float> zeros(kEmbd);
  float worth[kHeads];
  MakeScorer(PlusPlan(), SmallModel(false))
      ->ScoreHidden({0,
                     {zeros.data(), 1, kEmbd, kEmbd},
                     {zeros.data(), 1, kHeads * kDim, kHeads * kDim},
                     {zeros.data(), 1, kHeads * kDim, kHeads * kDim}},
                    worth);
  for (const float w : worth) EXPECT_TRUE(std::isfinite(w));
}

TEST(KvzapPlus, NeedsItsSurrogateForTheModel) {
  const ModelInfo model = SmallModel(false);
  Plan plan = PlusPlan();
  plan.calibration = nullptr;
  ExpectError(ErrorCode::kInvalidArgument, "there is no calibration",
              [&] { MakeScorer(plan, model); });
  auto other = MakeCalibration();
  other->kvzap_plus.reset();
  plan.calibration = other;
  ExpectError(ErrorCode::kInvalidArgument, "this one has none", [&] { MakeScorer(plan, model); });
  auto broken = MakeCalibration();
  broken->kvzap_plus->layers[1].norm_weight.pop_back();
  plan.calibration = broken;
  ExpectError(ErrorCode::kInvalidArgument, "layer 1 of the kvzap+ surrogate",
              [&] { MakeScorer(plan, model); });
  plan = PlusPlan();
  ModelInfo narrow = model;
  narrow.n_embd = 40;
  ExpectError(ErrorCode::kMismatch, "hidden states of 48", [&] { MakeScorer(plan, narrow); });
}

}  // namespace
}  // namespace pith
