#include "engine/received.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>

#include "cache/cache.h"

namespace pith {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr int64_t kBlock = 64;  // queries whose probabilities are held at once

}  // namespace

ReceivedAttention::ReceivedAttention(const ModelInfo& info, int n_tokens)
    : info_(info),
      n_tokens_(n_tokens),
      queries_(size_t{1} * info.n_layers * n_tokens * info.n_heads * info.head_dim),
      hidden_norms_(size_t{1} * info.n_layers * n_tokens) {}

void ReceivedAttention::TakeHidden(int layer, int32_t first, int n, const float* hidden) {
  if (first + n > n_tokens_) return;
  for (int i = 0; i < n; ++i) {
    const Eigen::Map<const Eigen::VectorXf> row(hidden + size_t{1} * i * info_.n_embd,
                                                info_.n_embd);
    hidden_norms_[static_cast<size_t>(layer * n_tokens_ + first + i)] = row.norm();
  }
}

void ReceivedAttention::TakeQueries(int layer, int32_t first, int n, const float* q) {
  if (first + n > n_tokens_) return;
  const int64_t row = int64_t{info_.n_heads} * info_.head_dim;
  std::copy(q, q + n * row, queries_.begin() + (layer * n_tokens_ + first) * row);
}

int64_t ReceivedAttention::CountSeen(std::span<const int32_t> positions) const {
  return std::lower_bound(positions.begin(), positions.end(), n_tokens_ - kReceivedDistance) -
         positions.begin();
}

std::vector<float> ReceivedAttention::Sum(int layer, int head, std::span<const float> all_keys,
                                          int64_t distance, bool by_hidden) const {
  const int64_t head_dim = info_.head_dim;
  const int64_t stride = info_.n_heads * head_dim;
  const Eigen::Map<const Rows> keys(all_keys.data(), n_tokens_, head_dim);
  std::vector<float> sums(static_cast<size_t>(n_tokens_));
  Eigen::Map<Eigen::ArrayXf> sum(sums.data(), n_tokens_);
  for (int64_t begin = 0; begin < n_tokens_; begin += kBlock) {
    const int64_t n = std::min(kBlock, n_tokens_ - begin);
    const Eigen::Map<const Rows, 0, Eigen::OuterStride<>> q(
        queries_.data() + (layer * n_tokens_ + begin) * stride + head * head_dim, n, head_dim,
        Eigen::OuterStride<>(stride));
    Rows scores = q * keys.topRows(begin + n).transpose();
    scores /= std::sqrt(static_cast<float>(head_dim));
    for (int64_t i = 0; i < n; ++i) {
      const int64_t n_far = begin + i + 1 - distance;
      if (n_far <= 0) continue;
      auto row = scores.row(i).head(begin + i + 1).array();
      row = (row - row.maxCoeff()).exp();
      const float norm =
          by_hidden ? hidden_norms_[static_cast<size_t>(layer * n_tokens_ + begin + i)] : 1.0f;
      sum.head(n_far) += row.head(n_far).transpose() / (row.sum() * norm);
    }
  }
  return sums;
}

std::vector<double> ReceivedAttention::Mean(int layer, int kv_head, const Cache& cache,
                                            int64_t distance) const {
  const int group = info_.n_heads / info_.n_kv_heads;
  const auto head_dim = static_cast<size_t>(info_.head_dim);
  std::vector<float> keys(static_cast<size_t>(n_tokens_) * head_dim);
  std::vector<float> value(head_dim);
  for (int64_t i = 0; i < n_tokens_; ++i) {
    cache.Read(layer, kv_head, i, keys.data() + i * info_.head_dim, value.data());
  }
  std::vector<double> means(static_cast<size_t>(n_tokens_ - distance));
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const std::vector<float> sum = Sum(layer, head, keys, distance, false);
    for (size_t i = 0; i < means.size(); ++i) {
      means[i] += sum[i] / static_cast<double>(means.size() - i) / group;
    }
  }
  return means;
}

void ReceivedAttention::Log(int layer, int kv_head, const Cache& cache, const OutputNorms& norms,
                            std::span<const int32_t> positions,
                            std::span<float> log_received) const {
  const int64_t head_dim = info_.head_dim;
  const int group = info_.n_heads / info_.n_kv_heads;
  const int64_t n_seen = CountSeen(positions);
  Rows keys(n_tokens_, head_dim);
  Rows values(n_tokens_, head_dim);
  for (int64_t i = 0; i < n_tokens_; ++i) {
    cache.Read(layer, kv_head, i, keys.row(i).data(), values.row(i).data());
  }
  Eigen::ArrayXf best = Eigen::ArrayXf::Zero(n_tokens_);
  Eigen::ArrayXf output(n_tokens_);
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const std::vector<float> sum =
        Sum(layer, head, {keys.data(), static_cast<size_t>(keys.size())}, kReceivedDistance, true);
    norms.Norms(layer, head,
                {values.data(), static_cast<size_t>(n_tokens_), static_cast<size_t>(head_dim),
                 static_cast<size_t>(head_dim)},
                {output.data(), static_cast<size_t>(n_tokens_)});
    best = best.max(Eigen::Map<const Eigen::ArrayXf>(sum.data(), n_tokens_) * output);
  }
  for (int64_t i = 0; i < n_seen; ++i) {
    const int32_t at = positions[static_cast<size_t>(i)];
    const auto n_queries = static_cast<float>(n_tokens_ - kReceivedDistance - at);
    log_received[static_cast<size_t>(i)] =
        std::log(std::max(best[at] / n_queries, std::numeric_limits<float>::min()));
  }
}

}  // namespace pith
