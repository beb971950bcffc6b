// Codebooks that say little of any model's keys, which is all the same to what stores and reads
// them.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "cache/pq_codebook.h"
#include "pith/calibration.h"

namespace pith::testing {

// Maps that are no rotations, centres, and centroids spread as widely as keys of `spread` are.
inline PqCodebooks RandomCodebooks(int n_layers, int n_kv_heads, int head_dim,
                                   const std::vector<std::string>& codecs, float spread,
                                   uint32_t seed) {
  std::minstd_rand random(seed);
  const auto next = [&] { return static_cast<float>(random() % 65536) / 32768.0f - 1.0f; };
  PqCodebooks books{n_layers, n_kv_heads, head_dim, {}, {}, {}};
  const auto dim = static_cast<size_t>(head_dim);
  const size_t n_heads = size_t{1} * n_layers * n_kv_heads;
  for (size_t i = 0; i < n_heads * dim; ++i) books.centre.push_back(0.2f * spread * next());
  for (size_t i = 0; i < n_heads * dim * dim; ++i) {
    const size_t at = i % (dim * dim);
    books.map.push_back((at % (dim + 1) == 0 ? 1.0f : 0.0f) +
                        0.3f * next() / std::sqrt(static_cast<float>(dim)));
  }
  for (size_t i = 0; i < n_heads * dim; ++i) {
    books.energy.push_back(static_cast<float>((i * 7 + 3) % dim) / static_cast<float>(dim));
  }
  for (const std::string& codec : codecs) {
    std::vector<float>& centroids = books.centroids[codec];
    const size_t n = n_heads * dim * static_cast<size_t>(ParsePqShape(codec)->n_centroids());
    for (size_t i = 0; i < n; ++i) centroids.push_back(2 * spread * next());
  }
  return books;
}

}  // namespace pith::testing
