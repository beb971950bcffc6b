// Scores of keys that are codes of a product quantiser (cache/pq_layout.h), by look-up in tables of
// the query's products with all centroids (asymmetric distance computation, Jegou et al. 2011,
// section III; LOOKAT, arXiv 2601.10155, section 3). All rows of a tile share one pass over the
// codes. Included once per SIMD level.
//
// pq8: tables of f32, [n_subspaces][256][rows], so that one load serves a code for all rows.
// pq4: a table of 16 bytes is a register, and one shuffle looks up a vector of codes (Quicker ADC,
// arXiv 1812.09162, section 3; FAISS's fast scan). Its entries are rounded to 0..255 of a range
// that all subspaces share, r = the widest max - min of a subspace, so that an entry errs by at
// most r / 510 and a score by at most n_subspaces * r / 510.
#if defined(PITH_ATTENTION_CODES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PITH_ATTENTION_CODES_INL_H_
#undef PITH_ATTENTION_CODES_INL_H_
#else
#define PITH_ATTENTION_CODES_INL_H_
#endif

#include "attention/prefetch-inl.h"
#include "cache/pq_layout.h"

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {

// Rows side by side in tables of pq8.
constexpr int TableRows(int rows) { return rows <= 2 ? rows : rows <= 4 ? 4 : 8; }

// Floats that the tables of a tile take.
constexpr size_t TableFloats(const RowFormat& keys, int rows) {
  const size_t n = keys.n_subspaces;
  if (keys.id == CodecId::kPq8) return n * 256 * TableRows(rows);
  return keys.id == CodecId::kPq4 ? (n * 4 * rows + 2 * rows + 15) / 16 * 16 : 0;
}

// Products of a query, as LoadQuery gives it, with kLanes centroids from `k` on of a subspace.
HWY_INLINE hn::Vec<FloatTag> CentroidProducts(const float* HWY_RESTRICT centroids,
                                              const float* HWY_RESTRICT q, int subspace, int width,
                                              int n_centroids, int k) {
  const FloatTag d;
  auto sum = hn::Zero(d);
  for (int i = subspace * width; i < (subspace + 1) * width; ++i) {
    sum = hn::MulAdd(hn::Set(d, q[i]), hn::LoadU(d, centroids + i * n_centroids + k), sum);
  }
  return sum;
}

// What pq4 scores of a tile are made of.
struct ByteTables {
  uint8_t* entries;  // [n_subspaces][rows][16]
  float* scales;     // [rows]: score = scale * sum of entries + offset
  float* offsets;    // [rows]

  static ByteTables At(int n_subspaces, int rows, float* memory) {
    float* scales = memory + n_subspaces * 4 * rows;
    return {reinterpret_cast<uint8_t*>(memory), scales, scales + rows};
  }
};

// q: [rows] queries of head_dim. Products: room for n_subspaces * 16 floats.
HWY_INLINE void MakeByteTables(const RowFormat& keys, int head_dim, const float* HWY_RESTRICT q,
                               int rows, float* HWY_RESTRICT memory) {
  const float* centroids = keys.codebook + head_dim * head_dim;
  const int width = head_dim / keys.n_subspaces;
  const ByteTables tables = ByteTables::At(keys.n_subspaces, rows, memory);
  alignas(kPageAlignment) float products[16 * kMaxHeadDim];
  float least[kMaxHeadDim];
  const FloatTag d;
  for (int r = 0; r < rows; ++r) {
    float range = 0;
    float offset = 0;
    for (int m = 0; m < keys.n_subspaces; ++m) {
      float* HWY_RESTRICT of_subspace = products + 16 * m;
      for (int k = 0; k < 16; k += kLanes) {
        hn::Store(CentroidProducts(centroids, q + r * head_dim, m, width, 16, k), d,
                  of_subspace + k);
      }
      float max = of_subspace[0];
      float poison = 0;  // NaN where a product is no number
      least[m] = of_subspace[0];
      for (int k = 0; k < 16; ++k) {
        max = std::max(max, of_subspace[k]);
        least[m] = std::min(least[m], of_subspace[k]);
        poison += of_subspace[k] * 0.0f;
      }
      range = std::max(range, max - least[m]);
      offset += least[m] + poison;
    }
    const float inverse = range > 1e-30f ? 255.0f / range : 0.0f;
    tables.scales[r] = range / 255.0f;
    tables.offsets[r] = offset;
    for (int m = 0; m < keys.n_subspaces; ++m) {
      uint8_t* HWY_RESTRICT to = tables.entries + (size_t{1} * m * rows + r) * 16;
      for (int k = 0; k < 16; ++k) {
        const float entry = (products[16 * m + k] - least[m]) * inverse + 0.5f;
        to[k] = entry < 256.0f ? static_cast<uint8_t>(static_cast<int>(entry)) : uint8_t{255};
      }
    }
  }
}

// Tables of P rows, of which `rows` are given; to [n_subspaces][256][P].
template <int P>
HWY_INLINE void MakeFloatTables(const RowFormat& keys, int head_dim, const float* HWY_RESTRICT q,
                                int rows, float* HWY_RESTRICT to) {
  const float* centroids = keys.codebook + head_dim * head_dim;
  const int width = head_dim / keys.n_subspaces;
  const FloatTag d;
  for (int m = 0; m < keys.n_subspaces; ++m) {
    for (int k = 0; k < 256; k += kLanes) {
      float* HWY_RESTRICT at = to + (m * 256 + k) * P;
      const auto products = [&](int r) HWY_ATTR {
        if (r >= rows) return hn::Zero(d);
        return CentroidProducts(centroids, q + r * head_dim, m, width, 256, k);
      };
      if constexpr (P == 1) {
        hn::StoreU(products(0), d, at);
      } else if constexpr (P == 2) {
        hn::StoreInterleaved2(products(0), products(1), d, at);
      } else if constexpr (P == 4) {
        hn::StoreInterleaved4(products(0), products(1), products(2), products(3), d, at);
      } else {
        alignas(kPageAlignment) float row[kLanes];
        for (int r = 0; r < P; ++r) {
          hn::Store(products(r), d, row);
          for (int i = 0; i < kLanes; ++i) at[i * P + r] = row[i];
        }
      }
    }
  }
}

HWY_NOINLINE void MakeTables(const RowFormat& keys, int head_dim, const float* HWY_RESTRICT q,
                             int rows, float* HWY_RESTRICT memory) {
  if (keys.id == CodecId::kPq4) return MakeByteTables(keys, head_dim, q, rows, memory);
  switch (TableRows(rows)) {
    case 1:
      return MakeFloatTables<1>(keys, head_dim, q, rows, memory);
    case 2:
      return MakeFloatTables<2>(keys, head_dim, q, rows, memory);
    case 4:
      return MakeFloatTables<4>(keys, head_dim, q, rows, memory);
    default:
      return MakeFloatTables<8>(keys, head_dim, q, rows, memory);
  }
}

// Scores of R rows against one block of codes; scores [R][kStepEntries].
template <int R>
HWY_NOINLINE void ScoreBlockPq8(const float* HWY_RESTRICT tables, const uint8_t* HWY_RESTRICT codes,
                                int n_subspaces, float* HWY_RESTRICT scores, const Ahead& ahead) {
  constexpr int P = TableRows(R);
  const hn::CappedTag<float, P> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int kWidth = static_cast<int>(hn::MaxLanes(d));
  constexpr int kVectors = P / kWidth;
  constexpr int kEntries = 4;  // at a time, so that their additions do not wait for each other
  alignas(kPageAlignment) float sums[kBlockEntries * P];
  for (int entry = 0; entry < kBlockEntries; entry += kEntries) {
    if (entry * n_subspaces % 128 == 0) Fetch(ahead + size_t{1} * entry * n_subspaces);
    V sum[kEntries][kVectors];
    PITH_UNROLL for (int e = 0; e < kEntries; ++e) {
      PITH_UNROLL for (int v = 0; v < kVectors; ++v) sum[e][v] = hn::Zero(d);
    }
    for (int m = 0; m < n_subspaces; ++m) {
      const float* HWY_RESTRICT table = tables + size_t{256} * P * m;
      PITH_UNROLL for (int e = 0; e < kEntries; ++e) {
        const float* HWY_RESTRICT at = table + codes[m * kBlockEntries + entry + e] * P;
        PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
          sum[e][v] = hn::Add(sum[e][v], hn::Load(d, at + v * kWidth));
        }
      }
    }
    PITH_UNROLL for (int e = 0; e < kEntries; ++e) {
      PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
        hn::Store(sum[e][v], d, sums + (entry + e) * P + v * kWidth);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int e = 0; e < kBlockEntries; ++e) scores[r * kStepEntries + e] = sums[e * P + r];
  }
}

#if HWY_TARGET != HWY_SCALAR
template <int R>
HWY_NOINLINE void ScoreBlockPq4(const ByteTables& tables, const uint8_t* HWY_RESTRICT codes,
                                int n_subspaces, float* HWY_RESTRICT scores, const Ahead& ahead) {
  const hn::CappedTag<uint8_t, kBlockEntries> d8;
  const hn::Repartition<uint16_t, decltype(d8)> d16;
  using V16 = hn::Vec<decltype(d16)>;
  constexpr int kWidth = static_cast<int>(hn::MaxLanes(d8));
  const auto low_bits = hn::Set(d8, 0xf);
  for (int first = 0; first < kBlockEntries; first += kWidth) {
    // A 16-bit lane of the first sums is the even entry's plus 256 times the odd one's; the
    // second sums are the odd ones alone. Neither is more than 255 * 256.
    V16 both[R], odd[R];
    PITH_UNROLL for (int r = 0; r < R; ++r) both[r] = odd[r] = hn::Zero(d16);
    for (int pair = 0; pair < n_subspaces / 2; ++pair) {
      if (pair % 4 == 0 && first == 0) Fetch(ahead + size_t{kBlockEntries} * pair);
      const auto two = hn::Load(d8, codes + pair * kBlockEntries + first);
      const auto low = hn::And(two, low_bits);
      const auto high =
          hn::And(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, two))), low_bits);
      const uint8_t* HWY_RESTRICT entries = tables.entries + size_t{32} * pair * R;
      PITH_UNROLL for (int r = 0; r < R; ++r) {
        const auto a =
            hn::BitCast(d16, hn::TableLookupBytes(hn::LoadDup128(d8, entries + r * 16), low));
        const auto b = hn::BitCast(
            d16, hn::TableLookupBytes(hn::LoadDup128(d8, entries + (R + r) * 16), high));
        both[r] = hn::Add(both[r], hn::Add(a, b));
        odd[r] = hn::Add(odd[r], hn::Add(hn::ShiftRight<8>(a), hn::ShiftRight<8>(b)));
      }
    }
    PITH_UNROLL for (int r = 0; r < R; ++r) {
      alignas(kPageAlignment) uint16_t sums[kBlockEntries];
      hn::StoreInterleaved2(hn::Sub(both[r], hn::ShiftLeft<8>(odd[r])), odd[r], d16, sums);
      const FloatTag d;
      const hn::RebindToSigned<FloatTag> d32;
      const hn::Rebind<uint16_t, FloatTag> d_half;
      const auto scale = hn::Set(d, tables.scales[r]);
      const auto offset = hn::Set(d, tables.offsets[r]);
      for (int i = 0; i < kWidth; i += kLanes) {
        const auto sum = hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d_half, sums + i)));
        hn::Store(hn::MulAdd(sum, scale, offset), d, scores + r * kStepEntries + first + i);
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
