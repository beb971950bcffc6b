// How the queries of one head are spread: what Expected Attention (arXiv 2510.00636) knows of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/matrix_view.h"

namespace pith {

// Mean and covariance of rows that come bit by bit, merged as Chan et al. do (Algorithms for
// computing the sample variance, 1983), so that nothing cancels.
class QueryMoments {
 public:
  explicit QueryMoments(size_t dim) : mean_(dim), scatter_(dim * dim) {}

  void Add(MatrixView<const float> rows);  // [n, dim]
  void Add(const QueryMoments& other);
  void Clear() { n_ = 0; }

  int64_t n() const { return n_; }
  std::span<const float> mean() const { return mean_; }  // [dim]; meaningless without rows
  // Divided by n, not n - 1. [dim, dim]; needs a row.
  std::vector<float> Covariance() const;

 private:
  int64_t n_ = 0;
  std::vector<float> mean_;
  std::vector<float> scatter_;  // sum of (row - mean) (row - mean)^T; [dim, dim]
};

}  // namespace pith
