#include "calibrate/kvzap_layers.h"

#include <ggml.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <numbers>
#include <thread>

#include "base/fail.h"

namespace pith {
namespace {

constexpr int kQuantiles = 257;

}  // namespace

void ForEachLayer(int n_layers, int n_threads, const Progress& progress,
                  const std::function<void(int layer)>& train) {
  std::atomic<int> next = 0;
  std::mutex mutex;
  int n_done = 0;
  std::exception_ptr failure;
  const auto work = [&] {
    for (int layer = next++; layer < n_layers; layer = next++) {
      try {
        train(layer);
        const std::lock_guard lock(mutex);
        if (progress && !progress(++n_done, n_layers)) {
          Fail(ErrorCode::kCancelled, "the training was cancelled");
        }
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
        next = n_layers;
      }
    }
  };
  std::vector<std::jthread> threads;
  for (int i = 1; i < std::min(n_threads, n_layers); ++i) threads.emplace_back(work);
  work();
  threads.clear();
  if (failure) std::rethrow_exception(failure);
}

// By base functions, which need no tables: ggml's CPU ones have theirs once a backend was made.
void RoundToHalf(std::span<float> values) {
  std::vector<ggml_fp16_t> halves(values.size());
  ggml_fp32_to_fp16_row(values.data(), halves.data(), static_cast<int64_t>(values.size()));
  ggml_fp16_to_fp32_row(halves.data(), values.data(), static_cast<int64_t>(values.size()));
}

float ExactGelu(float x) {
  return 0.5f * x * (1.0f + std::erf(x * (std::numbers::sqrt2_v<float> / 2)));
}

float ExactGeluSlope(float x) {
  constexpr float kInvSqrt2Pi =
      std::numbers::inv_sqrtpi_v<float> * std::numbers::sqrt2_v<float> / 2;
  return 0.5f * (1.0f + std::erf(x * (std::numbers::sqrt2_v<float> / 2))) +
         x * kInvSqrt2Pi * std::exp(-0.5f * x * x);
}

RowMatrix Predict(const KvzapSurrogate& surrogate, int layer, const RowMatrix& rows) {
  const KvzapLayer& l = surrogate.layers[layer];
  const auto apply = [](const std::vector<float>& weight, const std::vector<float>& bias,
                        const RowMatrix& in) -> RowMatrix {
    const Eigen::Map<const RowMatrix> matrix(weight.data(), static_cast<Eigen::Index>(bias.size()),
                                             in.cols());
    const Eigen::Map<const Eigen::RowVectorXf> shift(bias.data(),
                                                     static_cast<Eigen::Index>(bias.size()));
    return (in * matrix.transpose()).rowwise() + shift;
  };
  if (surrogate.n_hidden == 0) return apply(l.weight, l.bias, rows);
  return apply(l.weight, l.bias, apply(l.weight_in, l.bias_in, rows).unaryExpr(&ExactGelu));
}

RowMatrix HiddenRows(const KvzapShape& shape, const KvzapShard& shard, int layer) {
  RowMatrix rows(shard.n_rows(), shape.n_embd);
  shard.Hidden(layer, 0, shard.n_rows(), rows.data());
  return rows;
}

RowMatrix Targets(const KvzapShape& shape, const KvzapShard& shard, int layer) {
  const Eigen::Map<const RowMatrix> scores(shard.LogScores(layer).data(), shape.n_kv_heads,
                                           shard.n_rows());
  return scores.transpose();
}

void Finish(const KvzapShape& shape, const KvzapSplits& splits, int n_threads, KvzapFit& fit) {
  KvzapSurrogate& surrogate = fit.surrogate;
  std::vector<std::vector<float>> given(static_cast<size_t>(shape.n_layers));
  fit.r2.assign(size_t{1} * shape.n_layers * shape.n_kv_heads, 0);
  ForEachLayer(shape.n_layers, n_threads, {}, [&](int layer) {
    const auto add = [&](const RowMatrix& predicted) {
      given[layer].insert(given[layer].end(), predicted.data(),
                          predicted.data() + predicted.size());
    };
    for (const KvzapShard& shard : splits.validation) {
      add(Predict(surrogate, layer, HiddenRows(shape, shard, layer)));
    }
    double n = 0;
    Eigen::ArrayXd sum = Eigen::ArrayXd::Zero(shape.n_kv_heads);
    Eigen::ArrayXd squares = sum;
    Eigen::ArrayXd errors = sum;
    for (const KvzapShard& shard : splits.held_out) {
      const RowMatrix predicted = Predict(surrogate, layer, HiddenRows(shape, shard, layer));
      add(predicted);
      const Eigen::ArrayXXd want = Targets(shape, shard, layer).cast<double>().array();
      n += static_cast<double>(want.rows());
      sum += want.colwise().sum().transpose();
      squares += want.square().colwise().sum().transpose();
      errors += (want - predicted.cast<double>().array()).square().colwise().sum().transpose();
    }
    const Eigen::ArrayXd total = squares - sum.square() / n;
    for (int h = 0; h < shape.n_kv_heads; ++h) {
      fit.r2[size_t{1} * layer * shape.n_kv_heads + h] =
          static_cast<float>(1 - errors[h] / std::max(total[h], 1e-12));
    }
  });
  surrogate.quantiles = QuantilesOf(given);
}

std::vector<float> QuantilesOf(const std::vector<std::vector<float>>& given) {
  std::vector<float> all;
  for (const std::vector<float>& layer : given) all.insert(all.end(), layer.begin(), layer.end());
  for (const float value : all) {
    if (!std::isfinite(value)) {
      Fail(ErrorCode::kFormat, "the surrogate gives {}, expected finite numbers", value);
    }
  }
  std::sort(all.begin(), all.end());
  std::vector<float> quantiles;
  for (size_t i = 0; i < kQuantiles; ++i) {
    quantiles.push_back(all[(all.size() - 1) * i / (kQuantiles - 1)]);
  }
  return quantiles;
}

}  // namespace pith
