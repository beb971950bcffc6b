#include "calibrate/query_svd.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "base/fail.h"
#include "calibrate/rope_layout.h"

namespace pith {

QuerySampler::QuerySampler(const QueryShape& shape, int64_t n_tokens, int rows_per_head,
                           uint64_t seed)
    : shape_(shape), n_tokens_(n_tokens) {
  if (shape.n_layers < 1 || shape.n_kv_heads < 1 || shape.head_dim < 1 ||
      shape.n_heads < shape.n_kv_heads || shape.n_heads % shape.n_kv_heads != 0) {
    Fail(ErrorCode::kInvalidArgument,
         "queries of {} layers, {} heads in {} groups and {} dimensions make no sense",
         shape.n_layers, shape.n_heads, shape.n_kv_heads, shape.head_dim);
  }
  if (n_tokens < 1 || rows_per_head < 1) {
    Fail(ErrorCode::kInvalidArgument,
         "cannot sample {} queries a head from {} tokens, expected at least 1 of each",
         rows_per_head, n_tokens);
  }
  // One token from each of n equal stretches. The generator's own numbers are the same everywhere,
  // those of the standard distributions are not.
  const int64_t n_rows = std::min<int64_t>(rows_per_head, n_tokens);
  std::mt19937_64 random(seed);
  for (int64_t i = 0; i < n_rows; ++i) {
    const int64_t begin = n_tokens / n_rows * i + std::min(i, n_tokens % n_rows);
    const int64_t size = n_tokens / n_rows + (i < n_tokens % n_rows ? 1 : 0);
    tokens_.push_back(begin + static_cast<int64_t>(random() % static_cast<uint64_t>(size)));
  }
  const auto layer_size = static_cast<size_t>(shape.n_heads) * tokens_.size() * shape.head_dim;
  rows_.assign(shape.n_layers, std::vector<float>(layer_size));
  filled_.assign(shape.n_layers, std::vector<char>(tokens_.size()));
}

void QuerySampler::Add(int layer, int64_t first, std::span<const float> queries) {
  const auto head_dim = static_cast<size_t>(shape_.head_dim);
  const size_t token_size = shape_.n_heads * head_dim;
  const auto n = static_cast<int64_t>(queries.size() / token_size);
  if (layer < 0 || layer >= shape_.n_layers || queries.size() % token_size != 0 || first < 0 ||
      first > n_tokens_ || n > n_tokens_ - first) {
    Fail(ErrorCode::kInvalidArgument,
         "{} query values from token {} of layer {} are not part of {} tokens and {} layers",
         queries.size(), first, layer, n_tokens_, shape_.n_layers);
  }
  const auto begin = std::lower_bound(tokens_.begin(), tokens_.end(), first);
  for (auto it = begin; it != tokens_.end() && *it < first + n; ++it) {
    const auto row = static_cast<size_t>(it - tokens_.begin());
    if (std::exchange(filled_[layer][row], 1) != 0) {
      Fail(ErrorCode::kInvalidArgument, "the queries of token {} in layer {} came twice", *it,
           layer);
    }
    const float* from = queries.data() + static_cast<size_t>(*it - first) * token_size;
    for (size_t head = 0; head < static_cast<size_t>(shape_.n_heads); ++head) {
      std::copy_n(from + head * head_dim, head_dim,
                  rows_[layer].data() + (head * tokens_.size() + row) * head_dim);
    }
  }
}

MatrixView<const float> QuerySampler::Rows(int layer, int head) const {
  const auto head_dim = static_cast<size_t>(shape_.head_dim);
  return {rows_[layer].data() + static_cast<size_t>(head) * tokens_.size() * head_dim,
          tokens_.size(), head_dim, head_dim};
}

bool QuerySampler::complete() const {
  return std::all_of(filled_.begin(), filled_.end(), [](const std::vector<char>& layer) {
    return std::find(layer.begin(), layer.end(), 0) == layer.end();
  });
}

std::vector<double> PrincipalDirection(MatrixView<const float> queries) {
  const auto n_rows = static_cast<Eigen::Index>(queries.rows);
  const auto head_dim = static_cast<Eigen::Index>(queries.cols);
  Eigen::MatrixXd columns(head_dim, n_rows);  // Q^T
  for (size_t i = 0; i < queries.rows; ++i) {
    columns.col(static_cast<Eigen::Index>(i)) =
        Eigen::Map<const Eigen::VectorXf>(queries.row(i), head_dim).cast<double>();
  }
  // The right singular vectors of Q are the eigenvectors of Q^T Q, which stays small however many
  // queries there are; in double its rounding is far below that of the float queries.
  Eigen::MatrixXd gram = Eigen::MatrixXd::Zero(head_dim, head_dim);
  gram.selfadjointView<Eigen::Lower>().rankUpdate(columns);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(gram);
  Eigen::VectorXd direction = solver.eigenvectors().col(head_dim - 1);  // of the largest eigenvalue
  Eigen::Index n_positive = 0;
  double sum = 0;
  for (Eigen::Index i = 0; i < n_rows; ++i) {
    const double product = columns.col(i).dot(direction);
    n_positive += product > 0 ? 1 : 0;
    sum += product;
  }
  const bool tie = 2 * n_positive == n_rows;
  if (tie ? sum < 0 : 2 * n_positive < n_rows) direction = -direction;
  return {direction.begin(), direction.end()};
}

std::vector<float> QueryFilters(const QuerySampler& sampler, bool rope_interleaved,
                                const Progress& progress) {
  const QueryShape& shape = sampler.shape();
  if (!sampler.complete()) {
    Fail(ErrorCode::kInvalidArgument, "not every sampled token has come to every layer");
  }
  if (rope_interleaved && shape.head_dim % 2 != 0) {
    Fail(ErrorCode::kInvalidArgument, "a head of {} dimensions cannot be interleaved pairs",
         shape.head_dim);
  }
  const int group = shape.n_heads / shape.n_kv_heads;
  std::vector<float> filters;  // appended in the order of layers, KV heads and dimensions
  for (int layer = 0; layer < shape.n_layers; ++layer) {
    for (int kv_head = 0; kv_head < shape.n_kv_heads; ++kv_head) {
      std::vector<double> mean(shape.head_dim);
      for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        const std::vector<double> direction = PrincipalDirection(sampler.Rows(layer, head));
        for (int i = 0; i < shape.head_dim; ++i) mean[i] += direction[i] / group;
      }
      for (int i = 0; i < shape.head_dim; ++i) {
        const int from = rope_interleaved ? InterleavedIndex(i, shape.head_dim) : i;
        if (!std::isfinite(mean[from])) {
          Fail(ErrorCode::kInvalidArgument,
               "the queries of layer {}, KV head {} are not finite numbers", layer, kv_head);
        }
        filters.push_back(static_cast<float>(-mean[from]));
      }
    }
    if (progress && !progress(layer + 1, shape.n_layers)) {
      Fail(ErrorCode::kCancelled, "the calibration was cancelled");
    }
  }
  return filters;
}

}  // namespace pith
