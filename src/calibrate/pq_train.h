// Training codebooks for the keys of a head: what may be lost is what costs attention least.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/matrix_view.h"
#include "cache/pq_codebook.h"

namespace pith {

// Keys of one head over texts.
struct KeySample {
  MatrixView<const float> keys;    // [n, head_dim] after RoPE, n > 0
  std::span<const float> weights;  // [n], not negative: what an error of a key costs
  // Second moment of the queries that look at them, up to a factor. [head_dim, head_dim]
  std::span<const double> queries;
};

// The map of a head, the same for all its codebooks (see PqCodebook). Coordinates are the keys'
// principal components after whitening by the queries, so that the squared error of a product q . k
// is about that of coordinates, and stand so that every even cut of them, and every even cut of
// the parts, has halves of like energy (after Optimized Product Quantization, Ge et al. 2013).
struct PqMap {
  std::vector<float> centre;  // [head_dim], the keys' weighted mean
  std::vector<float> map;     // [head_dim, head_dim]
  std::vector<float> energy;  // [head_dim], share of a coordinate in the sum of their squares
};
// The values are f16 numbers. Throws Error(kInvalidArgument) for keys or queries that are not
// finite, or where all weights are zero.
PqMap FitPqMap(const KeySample& sample);

// Centroids for the sample in that map, f16 numbers. [n_subspaces, n_centroids, width]
std::vector<float> FitPqCentroids(const KeySample& sample, const PqMap& map, const PqShape& shape,
                                  uint64_t seed);

}  // namespace pith
