// How entries lie in memory. Shared by the cache, which writes, and the kernels, which read.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pith {

// A page holds the K and V rows of 64 entries of one (layer, KV head): first K, then V.
//   K f16: two blocks of 32 entries, each dimension-major: k[block][head_dim][32]
//   V f16: entry-major: v[64][head_dim]
// so that a query element is broadcast against whole vectors of keys with no horizontal sums.
inline constexpr int kPageEntries = 64;
inline constexpr int kBlockEntries = 32;
inline constexpr int kPageAlignment = 64;  // bytes

using F16 = uint16_t;  // IEEE binary16 bits

constexpr size_t F16KeyBytes(int head_dim) { return size_t{kPageEntries} * head_dim * sizeof(F16); }

// What a kernel sees of one (layer, KV head). Entry i is in pages[i / 64]. Order means nothing,
// except that the last `n_chunk` entries are the tokens of the chunk being computed, in order.
struct HeadView {
  std::byte* const* pages = nullptr;
  int64_t n_entries = 0;  // chunk included
  int64_t n_chunk = 0;    // 0: every query sees every entry
};

}  // namespace pith
