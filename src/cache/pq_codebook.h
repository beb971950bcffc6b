// Keys as codes of a product quantiser (LOOKAT, arXiv 2601.10155, section 3).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/matrix_view.h"

namespace pith {

// "pq8x16": 16 subspaces with codes of 8 bits.
struct PqShape {
  int bits = 8;  // 4 or 8
  int n_subspaces = 0;

  int n_centroids() const { return 1 << bits; }
  int key_bytes() const { return n_subspaces * bits / 8; }
  std::string name() const;
};

// Empty unless `name` is pq8xM with M of 1 to 256, or pq4xM with an even M of 2 to 256.
std::optional<PqShape> ParsePqShape(std::string_view name);

// Throws Error(kInvalidArgument) unless the subspaces divide a head of so many dimensions.
void CheckPqShape(const PqShape& shape, int head_dim);

// The codebook of one head: a key is taken as
//   centre + sum over i of y[i] map[i],  y = the centroids of its codes, one after another.
// The centre joins the centroids, so that kernels need not know of it: with c inverse(map) added to
// every y, a key is the sum alone.
class PqCodebook {
 public:
  // centre [head_dim]; map [head_dim, head_dim], which has an inverse; centroids [n_subspaces,
  // n_centroids, head_dim / n_subspaces]. Throws Error(kInvalidArgument) for other sizes or where
  // there is no inverse.
  PqCodebook(const PqShape& shape, std::span<const float> centre, std::span<const float> map,
             std::span<const float> centroids);

  const PqShape& shape() const { return shape_; }
  int head_dim() const { return head_dim_; }
  // As pq_layout.h says.
  std::span<const float> packed() const { return packed_; }

  // keys [n, head_dim] to codes [n, n_subspaces], each below n_centroids.
  void Encode(MatrixView<const float> keys, std::span<uint8_t> codes) const;
  // codes [n_subspaces] to a key [head_dim].
  void Decode(std::span<const uint8_t> codes, float* key) const;

  // What one takes in memory.
  static size_t Bytes(const PqShape& shape, int head_dim);

 private:
  PqShape shape_;
  int head_dim_;
  std::vector<float> centre_;
  std::vector<float> inverse_;     // [head_dim, head_dim]: y = (key - centre) inverse
  std::vector<float> packed_;      // [PqCodebookFloats]
  std::vector<float> half_norms_;  // [n_subspaces, n_centroids], of centroids without the centre
};

// Coordinates y of keys in a map. keys [n, head_dim]; inverse [head_dim, head_dim] as above.
// [n, head_dim]
std::vector<float> PqCoordinates(MatrixView<const float> keys, std::span<const float> centre,
                                 std::span<const float> inverse);
// Throws Error(kInvalidArgument) where there is none. [head_dim, head_dim]
std::vector<float> InverseOfPqMap(std::span<const float> map, int head_dim);

}  // namespace pith
