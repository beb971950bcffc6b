// Key frames against what they are defined as, in double precision.
#include "model/key_frames.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "model/model_impl.h"
#include "model/weight_rows.h"
#include "tools/random_gguf.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

const KeyFrames& FramesOf(const Model& model) { return model.impl().key_frames(); }

Model Load(const testing::RandomGguf& options) {
  const testing::TempFolder folder;
  const auto file = folder / "model.gguf";
  testing::WriteRandomGguf(options, file);
  return Model::Load(file);
}

TEST(KeyFrames, AreEmptyWithoutABiasAndBehindANorm) {
  for (const std::string architecture : {"llama", "qwen3"}) {
    testing::RandomGguf options;
    options.architecture = architecture;
    EXPECT_TRUE(FramesOf(Load(options)).centres.empty()) << architecture;
    EXPECT_TRUE(FramesOf(Load(options)).spreads.empty()) << architecture;
  }
}

// What an output of a projection has for a mean square, its bias included.
double Square(const Weights& weights, const std::string& name, const Linear& linear,
              const ggml_tensor* gain, int64_t out, bool with_bias) {
  double sum = 0;
  const auto* g = static_cast<const float*>(gain->data);
  ForEachWeightRows(weights.file(), name, gain->ne[0], linear.n_out,
                    [&](int64_t first, MatrixView<const float> rows) {
                      if (out < first || out >= first + static_cast<int64_t>(rows.rows)) return;
                      const float* row = rows.row(static_cast<size_t>(out - first));
                      for (size_t d = 0; d < rows.cols; ++d) sum += std::pow(row[d] * g[d], 2);
                    });
  const double bias = with_bias ? static_cast<const float*>(linear.bias->data)[out] : 0;
  return sum + bias * bias;
}

TEST(KeyFrames, AreTheMeanOfTheTurnedBiasAndTheRatioOfWhatIsLeftToQueries) {
  testing::RandomGguf options;
  options.architecture = "qwen2";
  options.key_bias = 10;
  options.rope_freq_base = 1e6f;
  const Model model = Load(options);
  const HyperParams& h = model.impl().hparams;
  const Weights& weights = *model.impl().weights;
  const KeyFrames& frames = FramesOf(model);
  const int dim = h.head_dim, n_pairs = dim / 2;
  constexpr int kPositions = 4096;
  ASSERT_EQ(frames.centres.size(), size_t{1} * h.n_layers * h.n_kv_heads * dim);
  ASSERT_EQ(frames.spreads.size(), frames.centres.size());
  for (int layer = 0; layer < h.n_layers; ++layer) {
    const LayerWeights& of_layer = weights.layers[layer];
    const std::string block = "blk." + std::to_string(layer) + ".";
    const auto* bias = static_cast<const float*>(of_layer.k.bias->data);
    for (int head = 0; head < h.n_kv_heads; ++head) {
      for (int pair = 0; pair < n_pairs; ++pair) {
        const int x = head * dim + pair, y = x + n_pairs;
        const double step = std::pow(1e6, -2.0 * pair / dim);
        double cos = 0, sin = 0;
        for (int p = 0; p < kPositions; ++p) {
          cos += std::cos(p * step) / kPositions;
          sin += std::sin(p * step) / kPositions;
        }
        const size_t at = size_t{1} * layer * h.n_kv_heads * dim;
        const double centre_x = bias[x] * cos - bias[y] * sin;
        const double centre_y = bias[x] * sin + bias[y] * cos;
        const double size = std::hypot(bias[x], bias[y]);
        EXPECT_NEAR(frames.centres[at + x], centre_x, 1e-3 * size) << pair;
        EXPECT_NEAR(frames.centres[at + y], centre_y, 1e-3 * size) << pair;

        double keys = size * size - centre_x * centre_x - centre_y * centre_y, queries = 0;
        for (const int d : {x, y}) {
          keys +=
              Square(weights, block + "attn_k.weight", of_layer.k, of_layer.attn_norm, d, false);
          for (int g = 0; g < h.group(); ++g) {
            const int q = (head * h.group() + g) * dim + d % dim;
            queries +=
                Square(weights, block + "attn_q.weight", of_layer.q, of_layer.attn_norm, q, true);
          }
        }
        const double spread = std::pow(keys / (queries / h.group()), 0.25);
        EXPECT_NEAR(frames.spreads[at + x], spread, 2e-3 * spread) << pair;
        EXPECT_EQ(frames.spreads[at + x], frames.spreads[at + y]) << pair;
      }
    }
  }
}

}  // namespace
}  // namespace pith
