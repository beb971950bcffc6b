// The two orders in which a head's dimensions are stored for RoPE: half-split pairs dimension i
// with i + head_dim/2, interleaved pairs 2i with 2i + 1.
#pragma once

namespace pith {

// Where dimension `i` of the half-split order stands in the interleaved one. `head_dim` is even.
constexpr int InterleavedIndex(int i, int head_dim) {
  const int half = head_dim / 2;
  return i < half ? 2 * i : 2 * (i - half) + 1;
}

}  // namespace pith
