// What training a surrogate of either form shares.
#pragma once

#include <Eigen/Core>
#include <functional>
#include <span>
#include <vector>

#include "calibrate/kvzap_train.h"

namespace pith {

using RowMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Calls `train` for every layer, from n_threads threads; the first exception is thrown on.
void ForEachLayer(int n_layers, int n_threads, const Progress& progress,
                  const std::function<void(int layer)>& train);

// 0.5 x (1 + erf(x / sqrt 2)), and its slope.
float ExactGelu(float x);
float ExactGeluSlope(float x);

// To the nearest f16 numbers, as which weights are stored.
void RoundToHalf(std::span<float> values);

// What a layer of the surrogate gives rows of hidden states. [rows, n_kv_heads]
RowMatrix Predict(const KvzapSurrogate& surrogate, int layer, const RowMatrix& rows);

// All rows of a shard's layer, and their targets [n_rows, n_kv_heads].
RowMatrix HiddenRows(const KvzapShape& shape, const KvzapShard& shard, int layer);
RowMatrix Targets(const KvzapShape& shape, const KvzapShard& shard, int layer);

// Evenly spaced quantiles, 257 of them, of what a surrogate gives, layer by layer. Throws
// Error(kFormat) unless all are finite.
std::vector<float> QuantilesOf(const std::vector<std::vector<float>>& given);

// Measures R2 on the held-out shards, and quantiles.
void Finish(const KvzapShape& shape, const KvzapSplits& splits, int n_threads, KvzapFit& fit);

}  // namespace pith
