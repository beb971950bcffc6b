// Scores of keys that are codes of a product quantiser (cache/pq_layout.h), by look-up in tables of
// the query's products with all centroids (asymmetric distance computation, Jegou et al. 2011,
// section III; LOOKAT, arXiv 2601.10155, section 3). All rows of a tile share one pass over the
// codes. Included once per SIMD level.
//
// Entries of tables are integers: entry = (product - least) / unit, least being the smallest
// product of the subspace, so that it errs by at most unit / 2 and a score by at most n_subspaces *
// unit / 2. Let a range be the largest less the smallest product of a subspace. pq8: four rows side
// by side as u16 in 64 bits, [n_subspaces][256], so that one addition serves a code for four rows;
// unit = the sum of all ranges / (65535 - n_subspaces). pq4: a table of 16 bytes is a register, and
// one shuffle looks up a vector of codes (Quicker ADC, arXiv 1812.09162, section 3; FAISS's fast
// scan). Four neighbouring subspaces are summed in bytes: unit = the largest sum of their ranges /
// 253.
#if defined(PITH_ATTENTION_CODES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PITH_ATTENTION_CODES_INL_H_
#undef PITH_ATTENTION_CODES_INL_H_
#else
#define PITH_ATTENTION_CODES_INL_H_
#endif

#include <cstring>
#include <numeric>
#include <type_traits>

#include "attention/integer-inl.h"
#include "attention/prefetch-inl.h"
#include "cache/pq_layout.h"

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {

// Rows that share an entry of a table of pq8, and subspaces of pq4 that share a sum of bytes.
inline constexpr int kWordRows = 4;
inline constexpr int kByteSums = 4;

constexpr int RowWords(int rows) { return (rows + kWordRows - 1) / kWordRows; }

// What scores of a tile are made of: score = unit * sum of entries + offset.
struct CodeTables {
  uint64_t* words;  // pq8: [RowWords][n_subspaces][256], four u16 each
  uint8_t* bytes;   // pq4: [n_subspaces][rows][16]
  float* units;     // [rows]
  float* offsets;   // [rows]

  static constexpr size_t EntryFloats(const RowFormat& keys, int rows) {
    const size_t n = keys.n_subspaces;
    return keys.id == CodecId::kPq8 ? n * 512 * RowWords(rows) : n * 4 * rows;
  }
  static CodeTables At(const RowFormat& keys, int rows, float* memory) {
    float* units = memory + EntryFloats(keys, rows);
    return {reinterpret_cast<uint64_t*>(memory), reinterpret_cast<uint8_t*>(memory), units,
            units + rows};
  }
};

// Floats that the tables of a tile take.
constexpr size_t TableFloats(const RowFormat& keys, int rows) {
  if (keys.id != CodecId::kPq8 && keys.id != CodecId::kPq4) return 0;
  return (CodeTables::EntryFloats(keys, rows) + 2 * rows + 15) / 16 * 16;
}

// Products of a query, as LoadQuery gives it, with all centroids of a subspace. to [n_centroids],
// aligned.
HWY_INLINE void CentroidProducts(const RowFormat& keys, int head_dim, const float* HWY_RESTRICT q,
                                 int subspace, float* HWY_RESTRICT to) {
  const FloatTag d;
  constexpr int kVectors = 16 / kLanes;
  const int width = head_dim / keys.n_subspaces;
  const int n_centroids = PqCentroids(keys.id);
  const float* HWY_RESTRICT of_query = q + subspace * width;
  const float* HWY_RESTRICT centroids =
      keys.codebook + head_dim * head_dim + size_t{1} * subspace * width * n_centroids;
  for (int k = 0; k < n_centroids; k += 16) {
    hn::Vec<FloatTag> sums[kVectors];
    PITH_UNROLL for (int v = 0; v < kVectors; ++v) sums[v] = hn::Zero(d);
    for (int i = 0; i < width; ++i) {
      const auto x = hn::Set(d, of_query[i]);
      PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
        const auto of_dim = hn::LoadU(d, centroids + i * n_centroids + k + v * kLanes);
        sums[v] = hn::MulAdd(x, of_dim, sums[v]);
      }
    }
    PITH_UNROLL for (int v = 0; v < kVectors; ++v) hn::Store(sums[v], d, to + k + v * kLanes);
  }
}

// The smallest and the largest product of a query with the centroids of each subspace; the sum of
// what is not finite, which no entry can say, is NaN.
struct ProductRanges {
  float least[kMaxHeadDim];
  float ranges[kMaxHeadDim];
  float poison;
};

// q, found: [rows] queries of head_dim. Centroids are many: each is read once for all rows.
HWY_INLINE void FindRanges(const RowFormat& keys, int head_dim, const float* HWY_RESTRICT q,
                           int rows, ProductRanges* HWY_RESTRICT found) {
  const FloatTag d;
  alignas(kPageAlignment) float products[256];
  for (int r = 0; r < rows; ++r) found[r].poison = 0;
  for (int m = 0; m < keys.n_subspaces; ++m) {
    for (int r = 0; r < rows; ++r) {
      CentroidProducts(keys, head_dim, q + r * head_dim, m, products);
      auto least = hn::Load(d, products);
      auto most = least;
      auto poison = hn::Zero(d);
      for (int k = 0; k < PqCentroids(keys.id); k += kLanes) {
        const auto x = hn::Load(d, products + k);
        least = hn::Min(least, x);
        most = hn::Max(most, x);
        poison = hn::MulAdd(x, hn::Zero(d), poison);
      }
      found[r].least[m] = hn::GetLane(hn::MinOfLanes(d, least));
      found[r].ranges[m] = hn::GetLane(hn::MaxOfLanes(d, most)) - found[r].least[m];
      found[r].poison += hn::GetLane(hn::SumOfLanes(d, poison));
    }
  }
}

// q: [rows] queries of head_dim.
HWY_NOINLINE void MakeTables(const RowFormat& keys, int head_dim, const float* HWY_RESTRICT q,
                             int rows, float* HWY_RESTRICT memory) {
  const FloatTag d;
  const hn::Rebind<uint16_t, FloatTag> d16;
  const hn::CappedTag<uint16_t, 8> d8x16;
  const CodeTables tables = CodeTables::At(keys, rows, memory);
  const bool pq8 = keys.id == CodecId::kPq8;
  const int n = keys.n_subspaces;
  for (int first = 0; first < rows; first += kWordRows) {
    ProductRanges found[kWordRows];
    const int n_here = std::min(kWordRows, rows - first);
    FindRanges(keys, head_dim, q + first * head_dim, n_here, found);
    for (int r = 0; r < n_here; ++r) {
      const float* ranges = found[r].ranges;
      float widest = 0;
      for (int m = 0; m < n; m += pq8 ? n : kByteSums) {
        const float* end = ranges + (pq8 ? n : std::min(m + kByteSums, n));
        widest = std::max(widest, std::accumulate(ranges + m, end, 0.0f));
      }
      tables.units[first + r] = widest / (pq8 ? 65535.0f - static_cast<float>(n) : 253.0f);
      tables.offsets[first + r] =
          std::accumulate(found[r].least, found[r].least + n, found[r].poison);
    }
    alignas(kPageAlignment) uint16_t entries[kWordRows][256] = {};
    for (int m = 0; m < n; ++m) {
      for (int r = 0; r < n_here; ++r) {
        alignas(kPageAlignment) float products[256];
        CentroidProducts(keys, head_dim, q + (first + r) * head_dim, m, products);
        const float unit = tables.units[first + r];
        const auto inverse = hn::Set(d, unit > 1e-30f ? 1.0f / unit : 0.0f);
        const auto least = hn::Set(d, found[r].least[m]);
        for (int k = 0; k < PqCentroids(keys.id); k += kLanes) {
          const auto above = hn::Mul(hn::Sub(hn::Load(d, products + k), least), inverse);
          hn::Store(hn::DemoteTo(d16, RoundToInt(d, above)), d16, entries[r] + k);
        }
        if (!pq8) {
          std::copy_n(entries[r], 16, tables.bytes + (size_t{1} * m * rows + first + r) * 16);
        }
      }
      if (!pq8) continue;
      auto* to =
          reinterpret_cast<uint16_t*>(tables.words + (size_t{1} * first / kWordRows * n + m) * 256);
      for (int k = 0; k < 256; k += static_cast<int>(hn::MaxLanes(d8x16))) {
        hn::StoreInterleaved4(hn::Load(d8x16, entries[0] + k), hn::Load(d8x16, entries[1] + k),
                              hn::Load(d8x16, entries[2] + k), hn::Load(d8x16, entries[3] + k),
                              d8x16, to + k * kWordRows);
      }
    }
  }
}

#if HWY_TARGET != HWY_SCALAR
// scores = unit * sums + offset, of u16 sums.
template <class D>
HWY_INLINE void StoreScores(D d, hn::Vec<hn::Rebind<uint16_t, D>> sums, const CodeTables& tables,
                            int r, float* HWY_RESTRICT scores) {
  const auto sum = hn::ConvertTo(d, hn::PromoteTo(hn::RebindToSigned<D>(), sums));
  const auto unit = hn::Set(d, tables.units[r]);
  hn::Store(hn::MulAdd(sum, unit, hn::Set(d, tables.offsets[r])), d, scores + r * kStepEntries);
}

// Scores of R rows against one block of codes; scores [R][kStepEntries].
template <int R>
HWY_NOINLINE void ScoreBlockPq8(const CodeTables& tables, const uint8_t* HWY_RESTRICT codes,
                                int n_subspaces, float* HWY_RESTRICT scores, const Ahead& ahead) {
  const EightTag d;
  const hn::Rebind<uint16_t, EightTag> d16;
  constexpr int kEntries = 8;  // at a time: their codes are a word, their sums are in registers
  alignas(kPageAlignment) uint64_t sums[kEntries];
  for (int entry = 0; entry < kBlockEntries; entry += kEntries) {
    for (int line = 0; line < n_subspaces; line += 8) {
      if (entry / kEntries % 4 == line / 8 % 4) Fetch(ahead + size_t{16} * line);
    }
    for (int word = 0; word < RowWords(R); ++word) {
      const uint64_t* HWY_RESTRICT table = tables.words + size_t{256} * n_subspaces * word;
      const uint8_t* HWY_RESTRICT from = codes + entry;
      uint64_t sum[kEntries] = {};
      for (int m = 0; m < n_subspaces; ++m, table += 256, from += kBlockEntries) {
        uint64_t eight;
        std::memcpy(&eight, from, sizeof eight);
#if HWY_COMPILER_GCC && !HWY_COMPILER_CLANG
        asm(""
            : "+r"(eight));  // GCC otherwise makes vectors over subspaces, which is a third slower
#endif
        PITH_UNROLL for (int e = 0; e < kEntries; ++e) sum[e] += table[eight >> (8 * e) & 0xff];
      }
      PITH_UNROLL for (int e = 0; e < kEntries; ++e) sums[e] = sum[e];
      const auto* words = reinterpret_cast<const uint16_t*>(sums);
      for (int e = 0; e < kEntries; e += kEights) {
        hn::Vec<decltype(d16)> rows[kWordRows];
        hn::LoadInterleaved4(d16, words + e * kWordRows, rows[0], rows[1], rows[2], rows[3]);
        PITH_UNROLL for (int r = 0; r < kWordRows; ++r) {
          if (word * kWordRows + r >= R) break;
          StoreScores(d, rows[r], tables, word * kWordRows + r, scores + entry + e);
        }
      }
    }
  }
}

template <int R>
HWY_NOINLINE void ScoreBlockPq4(const CodeTables& tables, const uint8_t* HWY_RESTRICT codes,
                                int n_subspaces, float* HWY_RESTRICT scores, const Ahead& ahead) {
  const hn::CappedTag<uint8_t, kBlockEntries> d8;
  const hn::Repartition<uint16_t, decltype(d8)> d16;
  using V8 = hn::Vec<decltype(d8)>;
  using V16 = hn::Vec<decltype(d16)>;
  constexpr int kWidth = static_cast<int>(hn::MaxLanes(d8));
  const auto low_bits = hn::Set(d8, 0xf);
  for (int first = 0; first < kBlockEntries; first += kWidth) {
    // A 16-bit lane of the first sums is the even entry's plus 256 times the odd one's; the
    // second sums are the odd ones alone.
    V16 both[R], odd[R];
    PITH_UNROLL for (int r = 0; r < R; ++r) both[r] = odd[r] = hn::Zero(d16);
    const auto add = [&](int pair, auto n_pairs) HWY_ATTR {
      V8 part[2 * n_pairs];
      PITH_UNROLL for (int i = 0; i < n_pairs; ++i) {
        const auto two = hn::Load(d8, codes + (pair + i) * kBlockEntries + first);
        part[2 * i] = hn::And(two, low_bits);
        part[2 * i + 1] =
            hn::And(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, two))), low_bits);
      }
      const uint8_t* HWY_RESTRICT entries = tables.bytes + size_t{32} * pair * R;
      PITH_UNROLL for (int r = 0; r < R; ++r) {
        const auto look_up = [&](int i) HWY_ATTR {
          return hn::TableLookupBytes(hn::LoadDup128(d8, entries + (i * R + r) * 16), part[i]);
        };
        V8 sum = hn::Add(look_up(0), look_up(1));
        if constexpr (n_pairs == 2) sum = hn::Add(sum, hn::Add(look_up(2), look_up(3)));
        both[r] = hn::Add(both[r], hn::BitCast(d16, sum));
        odd[r] = hn::Add(odd[r], hn::ShiftRight<8>(hn::BitCast(d16, sum)));
      }
    };
    int pair = 0;
    for (; pair + 2 <= n_subspaces / 2; pair += 2) {
      if (pair % 4 == 0 && first == 0) Fetch(ahead + size_t{kBlockEntries} * pair);
      add(pair, std::integral_constant<int, 2>());
    }
    if (pair < n_subspaces / 2) add(pair, std::integral_constant<int, 1>());
    PITH_UNROLL for (int r = 0; r < R; ++r) {
      alignas(kPageAlignment) uint16_t sums[kBlockEntries];
      hn::StoreInterleaved2(hn::Sub(both[r], hn::ShiftLeft<8>(odd[r])), odd[r], d16, sums);
      const FloatTag d;
      const hn::Rebind<uint16_t, FloatTag> d_half;
      for (int i = 0; i < kWidth; i += kLanes) {
        StoreScores(d, hn::LoadU(d_half, sums + i), tables, r, scores + first + i);
      }
    }
  }
}
#endif  // HWY_SCALAR

// Keys of up to n entries, as coordinates in the codebook's map, to panels
// [n / panel_width][head_dim][panel_width] f32.
HWY_NOINLINE void ConvertCodes(const RowFormat& keys, const std::byte* HWY_RESTRICT blocks, int n,
                               int head_dim, int panel_width, float* HWY_RESTRICT panels) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> d32;
  const hn::Rebind<uint8_t, FloatTag> d8;
  const bool pq8 = keys.id == CodecId::kPq8;
  const int n_centroids = PqCentroids(keys.id);
  const int width = head_dim / keys.n_subspaces;
  const float* centroids = keys.codebook + head_dim * head_dim;
  for (int entry = 0; entry < n; entry += kLanes) {
    const auto* codes = reinterpret_cast<const uint8_t*>(
        blocks + entry / kBlockEntries * PqBlockBytes(keys) + entry % kBlockEntries);
    float* HWY_RESTRICT to =
        panels + entry / panel_width * panel_width * head_dim + entry % panel_width;
    for (int m = 0; m < keys.n_subspaces; ++m) {
      auto code = hn::PromoteTo(d32, hn::LoadU(d8, codes + (pq8 ? m : m / 2) * kBlockEntries));
      if (!pq8) {
        code = hn::And(m % 2 == 0 ? code : hn::ShiftRight<4>(code), hn::Set(d32, 0xf));
      }
      for (int i = m * width; i < (m + 1) * width; ++i) {
        hn::Store(hn::GatherIndex(d, centroids + i * n_centroids, code), d, to + i * panel_width);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#endif  // include guard, per level
