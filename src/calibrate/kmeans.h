// Weighted k-means (Lloyd), seeded by k-means++.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/matrix_view.h"

namespace pith {

// rows [n, n_dims], n > 0; weights [n], not negative. Rounds until nothing changes, at most
// `max_rounds`. A centroid that no row is nearest to stays where it is. The same for a seed on a
// given machine. [n_centroids, n_dims], 1 to 256 of them
std::vector<float> WeightedKMeans(MatrixView<const float> rows, std::span<const float> weights,
                                  int n_centroids, int max_rounds, uint64_t seed);

}  // namespace pith
