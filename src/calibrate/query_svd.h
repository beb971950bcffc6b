// Q-Filters from queries: the direction in which the queries of a head agree
// (arXiv 2503.02812, section 3.2).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/matrix_view.h"
#include "pith/calibration.h"

namespace pith {

struct QueryShape {
  int n_layers = 0;
  int n_heads = 0;
  int n_kv_heads = 0;  // divides n_heads
  int head_dim = 0;
};

// Keeps a sample of the queries of a corpus: as many rows as asked for, spread evenly over the
// corpus by the seed alone, the same ones in every layer and head and however the corpus is cut.
// Memory: n_layers * n_heads * n_rows * head_dim floats.
class QuerySampler {
 public:
  // `n_tokens`: of the whole corpus; each gives one row a head. Takes min(rows_per_head, n_tokens).
  // Throws Error(kInvalidArgument) for sizes that are not positive.
  QuerySampler(const QueryShape& shape, int64_t n_tokens, int rows_per_head, uint64_t seed);

  // Offers the post-RoPE queries of corpus tokens [first, first + n) in one layer,
  // `queries` [n, n_heads, head_dim]. Every token must be offered once to every layer, in any
  // order. Calls for different layers may run at the same time. Throws Error(kInvalidArgument) for
  // what lies outside the corpus or comes twice.
  void Add(int layer, int64_t first, std::span<const float> queries);

  // The sampled queries of one head. [n_rows, head_dim]
  MatrixView<const float> Rows(int layer, int head) const;

  bool complete() const;  // whether every sampled token has come in every layer
  int n_rows() const { return static_cast<int>(tokens_.size()); }
  std::span<const int64_t> tokens() const { return tokens_; }  // which were sampled, ascending
  const QueryShape& shape() const { return shape_; }

 private:
  QueryShape shape_;
  int64_t n_tokens_;
  std::vector<int64_t> tokens_;
  std::vector<std::vector<float>> rows_;   // for each layer [n_heads, n_rows, head_dim]
  std::vector<std::vector<char>> filled_;  // for each layer [n_rows]
};

// The first right singular vector of `queries` [n_rows, head_dim] (n_rows > 0), of unit norm, with
// the sign that gives most queries a positive product with it: sgn(1^T u1) v1, by majority as in
// the reference code, by the sum where halves are equal. In the layout of the queries. [head_dim]
std::vector<double> PrincipalDirection(MatrixView<const float> queries);

// Filters as Calibration::q_filters has them: principal directions averaged over the query heads of
// a KV head (not made unit again), negated, half-split. `rope_interleaved` is the layout of the
// queries. [n_layers, n_kv_heads, head_dim]
// Throws Error(kInvalidArgument) when the sample is incomplete or not finite, Error(kCancelled).
// `progress` counts layers and is called on this thread.
std::vector<float> QueryFilters(const QuerySampler& sampler, bool rope_interleaved,
                                const Progress& progress = {});

}  // namespace pith
