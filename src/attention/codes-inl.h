// Scores of keys that are codes of a product quantiser (cache/pq_layout.h), by look-up in tables of
// the query's products with all centroids (asymmetric distance computation, Jegou et al. 2011,
// section III; LOOKAT, arXiv 2601.10155, section 3). All rows of a tile share one pass over the
// codes. Included once per SIMD level.
//
// Entries of tables are integers: entry = (product - least) / unit, least being the smallest
// product of the subspace, so that it errs by at most unit / 2 and a score by at most n_subspaces *
// unit / 2. Let a range be the largest less the smallest product of a subspace. pq8: four rows side
// by side as u16 in 64 bits, [n_subspaces][256], so that one addition serves a code for four rows;
// unit = the sum of all ranges / (65535 - n_subspaces). With VBMI, which looks 64 codes up in 128
// bytes at once, entries of pq8 are bytes: unit = the largest range / 255. pq4: a table of 16 bytes
// is a register, and one shuffle looks up a vector of codes (Quicker ADC, arXiv 1812.09162, section
// 3; FAISS's fast scan). Four neighbouring subspaces are summed in bytes: unit = the largest sum of
// their ranges / 253.
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

// Whether entries of tables are bytes.
constexpr bool HasByteTables(CodecId id) { return id == CodecId::kPq4 || kHasVnni; }

constexpr int RowWords(int rows) { return (rows + kWordRows - 1) / kWordRows; }

// What scores of a tile are made of: score = unit * sum of entries + offset.
struct CodeTables {
  uint64_t* words;  // pq8: [RowWords][n_subspaces][256], four u16 each
  uint8_t* bytes;   // pq4 and pq8 with VBMI: [n_subspaces][rows][n_centroids]
  float* units;     // [rows]
  float* offsets;   // [rows]

  static constexpr size_t EntryFloats(const RowFormat& keys, int rows) {
    const size_t n = keys.n_subspaces;
    return HasByteTables(keys.id) ? n * PqCentroids(keys.id) / 4 * rows : n * 512 * RowWords(rows);
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

// Products of R queries, as LoadQuery gives them, with all centroids of a subspace, each of which
// is read once for all of them. q [R][head_dim], to [R][n_centroids], aligned.
template <int R>
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
    hn::Vec<FloatTag> sums[R][kVectors];
    PITH_UNROLL for (int r = 0; r < R; ++r) {
      PITH_UNROLL for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(d);
    }
    for (int i = 0; i < width; ++i) {
      PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
        const auto of_dim = hn::LoadU(d, centroids + i * n_centroids + k + v * kLanes);
        PITH_UNROLL for (int r = 0; r < R; ++r) {
          sums[r][v] = hn::MulAdd(hn::Set(d, of_query[r * head_dim + i]), of_dim, sums[r][v]);
        }
      }
    }
    PITH_UNROLL for (int r = 0; r < R; ++r) {
      PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
        hn::Store(sums[r][v], d, to + r * n_centroids + k + v * kLanes);
      }
    }
  }
}

// Tables of R rows from `first` on, of `rows` in all. q [R][head_dim].
template <int R>
HWY_INLINE void MakeRowTables(const RowFormat& keys, int head_dim, const float* HWY_RESTRICT q,
                              int first, int rows, const CodeTables& tables) {
  const FloatTag d;
  const hn::Rebind<uint16_t, FloatTag> d16;
  const hn::Rebind<uint8_t, FloatTag> d8;
  const hn::CappedTag<uint16_t, 8> d8x16;
  const bool of_bytes = HasByteTables(keys.id);
  const int n = keys.n_subspaces;
  const int n_centroids = PqCentroids(keys.id);
  alignas(kPageAlignment) float products[R * 256];
  float least[R][kMaxHeadDim];
  float ranges[R][kMaxHeadDim];
  for (int m = 0; m < n; ++m) {
    CentroidProducts<R>(keys, head_dim, q, m, products);
    PITH_UNROLL for (int r = 0; r < R; ++r) {
      auto min = hn::Load(d, products + r * n_centroids);
      auto max = min;
      for (int k = kLanes; k < n_centroids; k += kLanes) {
        const auto x = hn::Load(d, products + r * n_centroids + k);
        min = hn::Min(min, x);
        max = hn::Max(max, x);
      }
      least[r][m] = hn::GetLane(hn::MinOfLanes(d, min));
      ranges[r][m] = hn::GetLane(hn::MaxOfLanes(d, max)) - least[r][m];
    }
  }
  // Subspaces whose entries are summed in a byte or a word, and the most that these hold less what
  // rounding adds.
  const int n_summed = !of_bytes ? n : keys.id == CodecId::kPq4 ? kByteSums : 1;
  const auto limit = static_cast<float>(of_bytes ? 255 - n_summed / 2 : 65535 - n);
  float inverses[R];
  for (int r = 0; r < R; ++r) {
    float widest = 0;
    float offset = 0;
    for (int m = 0; m < n; m += n_summed) {
      const int end = std::min(m + n_summed, n);
      const float sum = std::accumulate(ranges[r] + m, ranges[r] + end, 0.0f);
      widest = std::max(widest, sum);
      offset += sum * 0;  // NaN where a product is not finite, which no entry can say
    }
    const float unit = widest / limit;
    inverses[r] = unit > 1e-30f ? 1.0f / unit : 0.0f;
    tables.units[first + r] = unit;
    tables.offsets[first + r] = std::accumulate(least[r], least[r] + n, offset);
  }
  alignas(kPageAlignment) uint16_t entries[kWordRows][256] = {};
  for (int m = 0; m < n; ++m) {
    CentroidProducts<R>(keys, head_dim, q, m, products);
    PITH_UNROLL for (int r = 0; r < R; ++r) {
      const auto inverse = hn::Set(d, inverses[r]);
      const auto smallest = hn::Set(d, least[r][m]);
      uint8_t* HWY_RESTRICT bytes = tables.bytes + (size_t{1} * m * rows + first + r) * n_centroids;
      for (int k = 0; k < n_centroids; k += kLanes) {
        const auto x = hn::Load(d, products + r * n_centroids + k);
        const auto entry = RoundToInt(d, hn::Mul(hn::Sub(x, smallest), inverse));
        if (of_bytes) {
          hn::StoreU(hn::DemoteTo(d8, entry), d8, bytes + k);
        } else {
          hn::Store(hn::DemoteTo(d16, entry), d16, entries[r] + k);
        }
      }
    }
    if (of_bytes) continue;
    auto* to =
        reinterpret_cast<uint16_t*>(tables.words + (size_t{1} * first / kWordRows * n + m) * 256);
    for (int k = 0; k < 256; k += static_cast<int>(hn::MaxLanes(d8x16))) {
      hn::StoreInterleaved4(hn::Load(d8x16, entries[0] + k), hn::Load(d8x16, entries[1] + k),
                            hn::Load(d8x16, entries[2] + k), hn::Load(d8x16, entries[3] + k), d8x16,
                            to + k * kWordRows);
    }
  }
}

// q: [rows] queries of head_dim.
HWY_NOINLINE void MakeTables(const RowFormat& keys, int head_dim, const float* HWY_RESTRICT q,
                             int rows, float* HWY_RESTRICT memory) {
  const CodeTables tables = CodeTables::At(keys, rows, memory);
  for (int first = 0; first < rows; first += kWordRows) {
    ForHeight<kWordRows>(std::min(kWordRows, rows - first), [&](auto height) HWY_ATTR {
      MakeRowTables<height>(keys, head_dim, q + first * head_dim, first, rows, tables);
    });
  }
}

#if HWY_TARGET != HWY_SCALAR
// What sums of a row's entries become scores with.
struct RowUnit {
  hn::Vec<EightTag> unit;
  hn::Vec<EightTag> offset;

  RowUnit(const CodeTables& tables, int r)
      : unit(hn::Set(EightTag(), tables.units[r])),
        offset(hn::Set(EightTag(), tables.offsets[r])) {}

  // Of as many u16 sums as EightTag has lanes.
  template <class V16>
  HWY_INLINE void Store(V16 sums, float* HWY_RESTRICT scores) const {
    const EightTag d;
    const auto sum = hn::ConvertTo(d, hn::PromoteTo(hn::RebindToSigned<EightTag>(), sums));
    hn::Store(hn::MulAdd(sum, unit, offset), d, scores);
  }
};

#if HWY_TARGET == HWY_AVX3_DL
inline constexpr int kPq8Blocks = 2;

// Scores of R rows against two blocks of codes, the second `second` bytes behind the first; scores
// [R][kStepEntries].
template <int R>
HWY_NOINLINE void ScoreBlockPq8(const CodeTables& tables, const uint8_t* HWY_RESTRICT codes,
                                size_t second, int n_subspaces, float* HWY_RESTRICT scores,
                                const Ahead& ahead) {
  // A 16-bit lane of the first sums is the even entry's plus 256 times the odd one's; the second
  // sums are the odd ones alone.
  __m512i both[R], odd[R];
  PITH_UNROLL for (int r = 0; r < R; ++r) both[r] = odd[r] = _mm512_setzero_si512();
  for (int m = 0; m < n_subspaces; ++m) {
    if (m % 2 == 0) Fetch(ahead + size_t{64} * m);
    const auto* lower = reinterpret_cast<const __m256i*>(codes + m * kBlockEntries);
    const __m256i* upper = lower + second / sizeof(__m256i);
    const __m512i code = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_load_si256(lower)),
                                            _mm256_load_si256(upper), 1);
    const __mmask64 is_high = _mm512_movepi8_mask(code);
    PITH_UNROLL for (int r = 0; r < R; ++r) {
      const auto* table = reinterpret_cast<const __m512i*>(tables.bytes + (m * R + r) * 256);
      const __m512i low = _mm512_permutex2var_epi8(table[0], code, table[1]);
      const __m512i high = _mm512_permutex2var_epi8(table[2], code, table[3]);
      const __m512i entry = _mm512_mask_blend_epi8(is_high, low, high);
      both[r] = _mm512_add_epi16(both[r], entry);
      odd[r] = _mm512_add_epi16(odd[r], _mm512_srli_epi16(entry, 8));
    }
  }
  const hn::Full512<uint16_t> d16;
  const hn::Half<decltype(d16)> d_half;
  const hn::Half<decltype(d_half)> d_part;
  alignas(64) static constexpr uint16_t kFirst[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                                      37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                      11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i first = _mm512_load_si512(kFirst);
  const __m512i last = _mm512_add_epi16(first, _mm512_set1_epi16(16));
  PITH_UNROLL for (int r = 0; r < R; ++r) {
    const __m512i even = _mm512_sub_epi16(both[r], _mm512_slli_epi16(odd[r], 8));
    const RowUnit unit(tables, r);
    PITH_UNROLL for (int block = 0; block < 2; ++block) {
      const hn::Vec<decltype(d16)> sums{
          _mm512_permutex2var_epi16(even, block == 0 ? first : last, odd[r])};
      PITH_UNROLL for (int half = 0; half < 2; ++half) {
        const auto sixteen = half == 0 ? hn::LowerHalf(d_half, sums) : hn::UpperHalf(d_half, sums);
        float* HWY_RESTRICT to = scores + r * kStepEntries + block * kBlockEntries + half * 16;
        unit.Store(hn::LowerHalf(d_part, sixteen), to);
        unit.Store(hn::UpperHalf(d_part, sixteen), to + 8);
      }
    }
  }
}
#else
inline constexpr int kPq8Blocks = 1;

// Scores of R rows against one block of codes; scores [R][kStepEntries].
template <int R>
HWY_NOINLINE void ScoreBlockPq8(const CodeTables& tables, const uint8_t* HWY_RESTRICT codes,
                                size_t /*second*/, int n_subspaces, float* HWY_RESTRICT scores,
                                const Ahead& ahead) {
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
          const int row = word * kWordRows + r;
          RowUnit(tables, row).Store(rows[r], scores + row * kStepEntries + entry + e);
        }
      }
    }
  }
}
#endif  // HWY_AVX3_DL

// Scores of R rows against one block of codes; scores [R][kStepEntries].
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
    const hn::Half<decltype(d16)> d_half;
    constexpr bool kTwoBlocks = kWidth == 32;  // of 128 bits, which interleaving stays within
    PITH_UNROLL for (int r = 0; r < R; ++r) {
      const RowUnit unit(tables, r);
      const auto even = hn::Sub(both[r], hn::ShiftLeft<8>(odd[r]));
      const auto lower = hn::InterleaveLower(d16, even, odd[r]);
      const auto upper = hn::InterleaveUpper(d16, even, odd[r]);
      float* HWY_RESTRICT to = scores + r * kStepEntries + first;
      unit.Store(hn::LowerHalf(d_half, lower), to);
      unit.Store(hn::UpperHalf(d_half, lower), to + (kTwoBlocks ? 16 : 4));
      unit.Store(hn::LowerHalf(d_half, upper), to + 8);
      unit.Store(hn::UpperHalf(d_half, upper), to + (kTwoBlocks ? 24 : 12));
    }
  }
}
#endif  // HWY_SCALAR

// table[code], for codes below 16: a gather takes longer than permuting the table.
HWY_INLINE hn::Vec<FloatTag> LookUp16(const float* HWY_RESTRICT table,
                                      hn::Vec<hn::RebindToSigned<FloatTag>> code) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> d32;
  const auto index = hn::IndicesFromVec(d, hn::And(code, hn::Set(d32, kLanes - 1)));
  auto found = hn::TableLookupLanes(hn::LoadU(d, table), index);
  PITH_UNROLL for (int first = kLanes; first < 16; first += kLanes) {
    const auto here = hn::TableLookupLanes(hn::LoadU(d, table + first), index);
    const auto is_here = hn::RebindMask(d, hn::Gt(code, hn::Set(d32, first - 1)));
    found = hn::IfThenElse(is_here, here, found);
  }
  return found;
}

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
      const auto byte =
          hn::PromoteTo(d32, hn::LoadU(d8, codes + (pq8 ? m : m / 2) * kBlockEntries));
      if (pq8) {
        for (int i = m * width; i < (m + 1) * width; ++i) {
          hn::Store(hn::GatherIndex(d, centroids + i * n_centroids, byte), d, to + i * panel_width);
        }
        continue;
      }
      const auto code = hn::And(m % 2 == 0 ? byte : hn::ShiftRight<4>(byte), hn::Set(d32, 0xf));
      for (int i = m * width; i < (m + 1) * width; ++i) {
        hn::Store(LookUp16(centroids + i * n_centroids, code), d, to + i * panel_width);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#endif  // include guard, per level
