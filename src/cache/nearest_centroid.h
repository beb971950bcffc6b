// Which of a few centroids is nearest to each of many rows: most of the work of training and of
// encoding with product quantisation.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/matrix_view.h"

namespace pith {

// Codes of rows x: code i has the least half_norms[c] - c . x, the first of those equally low; 0
// for a row that holds a NaN. Half of |c|^2 finds the nearest. rows [n, n_dims]; centroids [n_dims,
// n_centroids]; half_norms [n_centroids], a multiple of 16 and at most 256; codes [n].
void FindCodes(MatrixView<const float> rows, std::span<const float> centroids,
               std::span<const float> half_norms, std::span<uint8_t> codes);

class CentroidSearch {
 public:
  // centroids: [n_centroids, n_dims], 1 to 256 of them, finite.
  CentroidSearch(std::span<const float> centroids, int n_dims);

  // codes[i]: the centroid that is nearest to row i, the first of those equally near; 0 for a row
  // that holds a NaN. rows [n, n_dims]; codes [n].
  void Find(MatrixView<const float> rows, std::span<uint8_t> codes) const;

 private:
  int n_dims_;
  std::vector<float> centroids_;   // [n_dims, n_padded]
  std::vector<float> half_norms_;  // [n_padded], infinite where there is no centroid
};

}  // namespace pith
