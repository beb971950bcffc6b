#include "model/key_frames.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <string>

#include <fmt/format.h>

#include "model/hparams.h"
#include "model/rope.h"
#include "model/weight_rows.h"
#include "model/weights.h"

namespace pith {
namespace {

constexpr int kPositions = 4096;
// Of the mean over dimensions, so that no dimension is left without bits.
constexpr float kLeast = 1e-6f;

const float* Floats(const ggml_tensor* vector) { return static_cast<const float*>(vector->data); }

// The mean square of each output of a projection but for its bias. [n_out]
std::vector<float> Squares(const Weights& weights, const HyperParams& h, const std::string& name,
                           int64_t n_out, const float* gain) {
  std::vector<float> squares(static_cast<size_t>(n_out));
  ForEachWeightRows(weights.file(), name, h.n_embd, n_out,
                    [&](int64_t first, MatrixView<const float> rows) {
                      for (size_t i = 0; i < rows.rows; ++i) {
                        float sum = 0;
                        for (size_t d = 0; d < rows.cols; ++d) {
                          const float x = rows.row(i)[d] * gain[d];
                          sum += x * x;
                        }
                        squares[static_cast<size_t>(first) + i] = sum;
                      }
                    });
  return squares;
}

// To means of pairs, none far below the others.
void EvenOut(const Rotation& rotation, std::span<float> squares) {
  rotation.ForEachPair(squares.data(), [](size_t, float& x, float& y) { x = y = (x + y) / 2; });
  const float sum = std::accumulate(squares.begin(), squares.end(), 0.0f);
  const float least = kLeast * sum / static_cast<float>(squares.size());
  for (float& x : squares) x = std::max(x, least);
}

// What queries and keys of a layer have besides RoPE's turning of the key's bias.
struct LayerSquares {
  LayerSquares(const Weights& weights, const HyperParams& h, int i) {
    const LayerWeights& layer = weights.layers[static_cast<size_t>(i)];
    const float* gain = Floats(layer.attn_norm);
    keys = Squares(weights, h, fmt::format("blk.{}.attn_k.weight", i), layer.k.n_out, gain);
    queries = Squares(weights, h, fmt::format("blk.{}.attn_q.weight", i), layer.q.n_out, gain);
    for (size_t d = 0; layer.q.bias && d < queries.size(); ++d) {
      queries[d] += Floats(layer.q.bias)[d] * Floats(layer.q.bias)[d];
    }
  }

  std::vector<float> keys;     // [n_kv_heads * head_dim]
  std::vector<float> queries;  // [n_heads * head_dim]
};

}  // namespace

KeyFrames MakeKeyFrames(const Weights& weights, const HyperParams& h, const Rope& rope) {
  const auto biased = [](const LayerWeights& layer) { return layer.k.bias != nullptr; };
  if (h.qk_norm || std::ranges::none_of(weights.layers, biased)) return {};
  const Rotation at_0 = rope.At(0), mean = rope.Mean(0, kPositions);
  const auto dim = static_cast<size_t>(h.head_dim), group = static_cast<size_t>(h.group());
  const auto n_kv_heads = static_cast<size_t>(h.n_kv_heads);
  const size_t n_floats = weights.layers.size() * n_kv_heads * dim;
  KeyFrames frames = {std::vector<float>(n_floats), std::vector<float>(n_floats, 1.0f)};
  for (int i = 0; i < h.n_layers; ++i) {
    const LayerWeights& layer = weights.layers[static_cast<size_t>(i)];
    if (!biased(layer)) continue;
    LayerSquares squares(weights, h, i);
    for (size_t head = 0; head < n_kv_heads; ++head) {
      const size_t at = (static_cast<size_t>(i) * n_kv_heads + head) * dim;
      float* centre = &frames.centres[at];
      std::copy_n(Floats(layer.k.bias) + head * dim, dim, centre);
      std::vector<float> bias(centre, centre + dim);
      at_0.Turn(bias.data());
      mean.Turn(centre);
      const std::span keys = std::span(squares.keys).subspan(head * dim, dim);
      for (size_t d = 0; d < dim; ++d) keys[d] += bias[d] * bias[d] - centre[d] * centre[d];
      std::vector<float> queries(dim);
      for (size_t d = 0; d < group * dim; ++d) {
        queries[d % dim] += squares.queries[head * group * dim + d] / static_cast<float>(group);
      }
      EvenOut(mean, keys);
      EvenOut(mean, queries);
      for (size_t d = 0; d < dim; ++d) {
        const float ratio = keys[d] / queries[d];
        if (std::isfinite(ratio) && ratio > 0) frames.spreads[at + d] = std::pow(ratio, 0.25f);
      }
    }
  }
  return frames;
}

}  // namespace pith
