// How entries lie in memory. Shared by the cache, which writes, and the kernels, which read.
#pragma once

#include <array>
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

enum class CodecId : uint8_t { kF16, kQ8, kQ4, kPq8, kPq4 };

// How the key or the value rows of a page lie; kernels are chosen by it.
struct RowFormat {
  CodecId id = CodecId::kF16;
  // Of this (layer, KV head), where the codec has one: pq_layout.h, low_rank.h.
  const float* codebook = nullptr;
  int n_subspaces = 0;  // of codes of product quantisation
  int rank = 0;         // of keys that are coefficients: how many, in place of head_dim
  // Of integers, both or neither: before a row was rotated it was divided by `spread`, and what is
  // coded lacks `centre`. [RowDims] each
  const float* spread = nullptr;
  const float* centre = nullptr;
};

// Elements of a row as it is stored.
constexpr int RowDims(const RowFormat& format, int head_dim) {
  return format.rank > 0 ? format.rank : head_dim;
}

// Entries of one head that are stored alike. Entry i is in pages[i / 64], slot i % 64.
struct TierView {
  std::byte* const* pages = nullptr;
  int64_t n_entries = 0;
  size_t key_bytes = 0;   // of a page: where its values begin
  size_t page_bytes = 0;  // of a page that count: its keys and values
  RowFormat keys = {};
  RowFormat values = {};
};

inline constexpr int kMaxTiers = 4;

// What a kernel sees of one (layer, KV head). Tier 0 is exact, f16. Order means nothing, except
// that the last `n_chunk` entries of tier 0 are the tokens of the chunk being computed, in order.
struct HeadView {
  std::array<TierView, kMaxTiers> tiers;  // the first n_tiers
  int n_tiers = 1;
  int64_t n_chunk = 0;  // 0: every query sees every entry

  int64_t n_entries() const {  // chunk included
    int64_t n = 0;
    for (int tier = 0; tier < n_tiers; ++tier) n += tiers[tier].n_entries;
    return n;
  }
};

// Of entries that are all exact.
inline HeadView ExactHead(std::byte* const* pages, int64_t n_entries, int64_t n_chunk,
                          int head_dim) {
  HeadView head;
  head.tiers[0] = {pages, n_entries, F16KeyBytes(head_dim), 2 * F16KeyBytes(head_dim)};
  head.n_chunk = n_chunk;
  return head;
}

}  // namespace pith
