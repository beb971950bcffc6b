// Which of a few centroids is nearest to each of many rows: most of the work of training and of
// encoding with product quantisation.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/matrix_view.h"

namespace pith {

class CentroidSearch {
 public:
  // centroids: [n_centroids, n_dims], 1 to 256 of them, finite.
  CentroidSearch(std::span<const float> centroids, int n_dims);

  // codes[i]: the centroid that is nearest to row i, the first of those equally near; 0 for a row
  // that holds a NaN. rows [n, n_dims]; codes [n].
  void Find(MatrixView<const float> rows, std::span<uint8_t> codes) const;

 private:
  int n_dims_;
  size_t n_padded_;
  std::vector<float> table_;  // [n_dims + 1, n_padded]: -2 c, dimension by dimension, then |c|^2
};

}  // namespace pith
