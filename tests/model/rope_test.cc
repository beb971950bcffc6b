// Rotations of single rows against those of the graph's own operator.
#include "model/rope.h"

#include <ggml-cpp.h>
#include <ggml-cpu.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace pith {
namespace {

constexpr int kDim = 64;

std::vector<float> Noise(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

// One row of each position, turned by ggml.
std::vector<float> TurnedByGgml(const HyperParams& h, const std::vector<float>& factors,
                                const std::vector<int32_t>& positions,
                                const std::vector<float>& rows) {
  const auto n = static_cast<int64_t>(positions.size());
  const ggml_context_ptr context(ggml_init({16 << 20, nullptr, false}));
  ggml_context* g = context.get();
  ggml_tensor* x = ggml_new_tensor_3d(g, GGML_TYPE_F32, kDim, 1, n);
  ggml_tensor* at = ggml_new_tensor_1d(g, GGML_TYPE_I32, n);
  std::copy(rows.begin(), rows.end(), static_cast<float*>(x->data));
  std::copy(positions.begin(), positions.end(), static_cast<int32_t*>(at->data));
  ggml_tensor* divisors = nullptr;
  if (!factors.empty()) {
    divisors = ggml_new_tensor_1d(g, GGML_TYPE_F32, static_cast<int64_t>(factors.size()));
    std::copy(factors.begin(), factors.end(), static_cast<float*>(divisors->data));
  }
  const RopeScaling& s = h.rope_scaling;
  ggml_tensor* y = ggml_rope_ext(g, x, at, divisors, h.n_rot,
                                 h.rope_interleaved ? GGML_ROPE_TYPE_NORMAL : GGML_ROPE_TYPE_NEOX,
                                 s.n_ctx_original, h.rope_freq_base, s.freq_scale, s.ext_factor,
                                 s.attn_factor, s.beta_fast, s.beta_slow);
  ggml_cgraph* graph = ggml_new_graph(g);
  ggml_build_forward_expand(graph, y);
  ggml_graph_compute_with_ctx(g, graph, 1);
  const auto* data = static_cast<const float*>(y->data);
  return {data, data + n * kDim};
}

double WorstError(const std::vector<float>& got, const std::vector<float>& want) {
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(double{got[i]} - want[i]);
    if (!(error <= worst)) worst = error;
    if (std::isnan(worst)) break;
  }
  return worst;
}

struct Case {
  const char* name;
  HyperParams hparams;
  std::vector<float> factors;
};

std::vector<Case> Cases() {
  HyperParams plain;
  plain.head_dim = plain.n_rot = kDim;
  plain.rope_freq_base = 100000.0f;
  plain.rope_scaling.n_ctx_original = 2048;
  std::vector<Case> cases;
  for (const bool interleaved : {false, true}) {
    HyperParams h = plain;
    h.rope_interleaved = interleaved;
    cases.push_back({"plain", h, {}});
    std::vector<float> factors(kDim / 2, 1.0f);
    for (size_t i = 16; i < factors.size(); ++i) factors[i] = 1.0f + static_cast<float>(i) / 4;
    cases.push_back({"factors", h, factors});
    HyperParams part = h;
    part.n_rot = 32;
    cases.push_back({"part", part, {}});
    HyperParams linear = h;
    linear.rope_scaling.freq_scale = 0.25f;
    cases.push_back({"linear", linear, {}});
    HyperParams yarn = linear;
    yarn.rope_scaling.ext_factor = 1.0f;
    yarn.rope_scaling.attn_factor = 1.25f;
    cases.push_back({"yarn", yarn, {}});
  }
  return cases;
}

TEST(Rope, TurnsAsTheGraphDoesAndBack) {
  const std::vector<int32_t> positions = {0, 1, 7, 100, 2047, 8191};
  const auto rows = Noise(positions.size() * kDim, 1);
  for (const Case& each : Cases()) {
    const auto want = TurnedByGgml(each.hparams, each.factors, positions, rows);
    const Rope rope(each.hparams, each.factors);
    std::vector<float> turned = rows;
    std::vector<float> back = want;
    for (size_t i = 0; i < positions.size(); ++i) {
      const Rotation rotation = rope.At(positions[i]);
      rotation.Turn(turned.data() + i * kDim);
      rotation.TurnBack(back.data() + i * kDim);
    }
    EXPECT_LE(WorstError(turned, want), 2e-5) << each.name << each.hparams.rope_interleaved;
    EXPECT_LE(WorstError(back, rows), 2e-5) << each.name << each.hparams.rope_interleaved;
    EXPECT_GT(WorstError(rows, want), 0.1) << each.name;
  }
}

TEST(Rope, TheMeanTurnsAsAllPositionsDoOnAverage) {
  const auto row = Noise(kDim, 2);
  for (const Case& each : Cases()) {
    const Rope rope(each.hparams, each.factors);
    std::vector<double> sum(kDim);
    for (int position = 300; position < 340; ++position) {
      std::vector<float> turned = row;
      rope.At(position).Turn(turned.data());
      for (size_t d = 0; d < kDim; ++d) sum[d] += turned[d] / 40.0;
    }
    std::vector<float> mean = row;
    rope.Mean(300, 40).Turn(mean.data());
    EXPECT_LE(WorstError(mean, {sum.begin(), sum.end()}), 1e-5) << each.name;
  }
}

}  // namespace
}  // namespace pith
