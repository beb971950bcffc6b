// Keys as coefficients on the few directions of their head that attention sees most of: what it
// reads lies in a subspace of fewer dimensions than a head has (arXiv 2508.16929).
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cache/layout.h"

namespace pith {

// "lr32": 32 coefficients as q8 has them; "lr32q4": as q4.
struct LowRankShape {
  int rank = 0;
  CodecId coefficients = CodecId::kQ8;

  std::string name() const;
};

// Empty unless `name` is lrR or lrRq4 with R of 1 to 256.
std::optional<LowRankShape> ParseLowRank(std::string_view name);

// Throws Error(kInvalidArgument) unless R is a multiple of 8 and no more than head_dim.
void CheckLowRank(const LowRankShape& shape, int head_dim);

// Directions of one head. They are orthonormal in the coordinates of a codebook's map: the rank - 1
// with most energy, and what the centre has outside of these, so that the centre is among what they
// span.
class LowRankBasis {
 public:
  // centre, energy [head_dim]; map [head_dim, head_dim], which has an inverse: a key is centre +
  // sum over i of y[i] map[i], and energy[i] is in proportion to the mean of y[i]^2. Throws
  // Error(kInvalidArgument) for other sizes or where there is no inverse.
  LowRankBasis(int rank, std::span<const float> centre, std::span<const float> map,
               std::span<const float> energy);

  // As RowFormat::codebook has it: [head_dim, rank], a key is the product with its coefficients.
  std::span<const float> directions() const { return directions_; }
  // Of a key [head_dim]. [rank]
  void Coefficients(const float* key, float* coefficients) const;
  // The other way. key [head_dim]
  void Key(const float* coefficients, float* key) const;
  std::span<const float> centre() const { return centre_; }  // its coefficients. [rank]

  // What one takes in memory.
  static size_t Bytes(int rank, int head_dim);

 private:
  std::vector<float> directions_;
  std::vector<float> duals_;  // [head_dim, rank]
  std::vector<float> centre_;
};

}  // namespace pith
