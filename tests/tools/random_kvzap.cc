#include "tools/random_kvzap.h"

#include <fmt/format.h>
#include <ggml.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <random>
#include <stdexcept>
#include <vector>

#include "base/gguf_file.h"
#include "calibrate/metadata_keys.h"
#include "model/hparams.h"

namespace pith::testing {
namespace {

// Of gelu(x) = x (1 + erf(x / sqrt 2)) / 2 for standard normal x, by integration: the mean is
// 1 / (2 sqrt pi), the mean square 1/3 + 1 / (2 sqrt(3) pi).
constexpr double kGeluMean = 0.5 * std::numbers::inv_sqrtpi;
constexpr double kGeluMeanSquare = 1.0 / 3 + 0.5 * std::numbers::inv_sqrt3 * std::numbers::inv_pi;
constexpr double kGeluVariance = kGeluMeanSquare - kGeluMean * kGeluMean;

// The sum of the squares of a norm's weights: what |h|^2 is on average behind it.
double SquaredNorm(const GgufFile& file, int layer) {
  const std::string name = fmt::format("blk.{}.attn_norm.weight", layer);
  const ggml_tensor* tensor = file.FindTensor(name);
  if (tensor == nullptr || tensor->type != GGML_TYPE_F32) {
    throw std::runtime_error(fmt::format("{} has no f32 tensor {}", file.name(), name));
  }
  const auto bytes = file.TensorBytes(*tensor);
  std::vector<float> weights(bytes.size() / sizeof(float));
  std::memcpy(weights.data(), bytes.data(), bytes.size());
  double sum = 0;
  for (const float w : weights) sum += static_cast<double>(w) * w;
  return sum;
}

// The x below which a part `p` of the standard normal distribution lies.
double NormalQuantile(double p) {
  double low = -8, high = 8;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::numbers::sqrt2) < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

std::vector<float> NormalQuantiles() {
  constexpr int kIntervals = 256;
  std::vector<float> quantiles;
  for (int i = 0; i <= kIntervals; ++i) {
    // The ends are where some ten thousand scores have theirs.
    const double p = std::clamp(static_cast<double>(i) / kIntervals, 1e-4, 1 - 1e-4);
    quantiles.push_back(static_cast<float>(NormalQuantile(p)));
  }
  return quantiles;
}

std::vector<float> Normal(size_t n, double deviation, std::mt19937_64& random) {
  std::normal_distribution<float> distribution(0, static_cast<float>(deviation));
  std::vector<float> values(n);
  // As trained ones are stored.
  for (float& value : values) value = ggml_fp16_to_fp32(ggml_fp32_to_fp16(distribution(random)));
  return values;
}

}  // namespace

Calibration MakeRandomKvzap(const std::filesystem::path& model, const RandomKvzap& options) {
  const GgufFile file = GgufFile::Open(model);
  const HyperParams h = ReadHyperParams(file);
  const auto n_embd = static_cast<size_t>(h.n_embd);
  const auto n_kv_heads = static_cast<size_t>(h.n_kv_heads);
  std::mt19937_64 random(options.seed);

  Calibration calibration;
  calibration.n_layers = h.n_layers;
  calibration.n_kv_heads = h.n_kv_heads;
  KvzapSurrogate& surrogate = calibration.kvzap.emplace();
  surrogate.n_embd = h.n_embd;
  surrogate.n_kv_heads = h.n_kv_heads;
  surrogate.n_hidden = options.mlp ? h.n_embd / 8 : 0;
  surrogate.quantiles = NormalQuantiles();
  const auto n_hidden = static_cast<size_t>(surrogate.n_hidden);
  for (int i = 0; i < h.n_layers; ++i) {
    KvzapLayer& layer = surrogate.layers.emplace_back();
    const double deviation = 1 / std::sqrt(SquaredNorm(file, i));
    layer.bias.assign(n_kv_heads, 0);
    if (!options.mlp) {
      layer.weight = Normal(n_kv_heads * n_embd, deviation, random);
      continue;
    }
    layer.weight_in = Normal(n_hidden * n_embd, deviation, random);
    layer.bias_in.assign(n_hidden, 0);
    layer.weight = Normal(n_kv_heads * n_hidden,
                          1 / std::sqrt(kGeluVariance * static_cast<double>(n_hidden)), random);
    for (size_t head = 0; head < n_kv_heads; ++head) {
      double sum = 0;
      for (size_t j = 0; j < n_hidden; ++j) sum += layer.weight[head * n_hidden + j];
      layer.bias[head] = static_cast<float>(-kGeluMean * sum);
    }
  }
  calibration.metadata[kKvzapFormKey] = options.mlp ? "mlp" : "linear";
  calibration.metadata[kKvzapCorpusKey] = "none, weights are random";
  calibration.metadata[kKvzapSeedKey] = std::to_string(options.seed);
  return calibration;
}

}  // namespace pith::testing
