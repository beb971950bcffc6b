// Attention of many queries, bound by arithmetic: FlashAttention's loop (arXiv 2205.14135,
// algorithm 1) with a page of keys and values converted to f32 once and two register-blocked matrix
// products, or with values left the integers they are, which decode knows to sum. Included once per
// SIMD level.
#if defined(PITH_ATTENTION_PREFILL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PITH_ATTENTION_PREFILL_INL_H_
#undef PITH_ATTENTION_PREFILL_INL_H_
#else
#define PITH_ATTENTION_PREFILL_INL_H_
#endif

#include "attention/codes-inl.h"
#include "attention/decode-inl.h"
#include "attention/quantised_keys-inl.h"
#include "attention/quantised_values-inl.h"
#include "attention/simd-inl.h"
#include "attention/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {

// out[r] = factors[r] * out[r] + weights[r] . values over n entries, kVectors vectors of
// dimensions. weights [kTileRows][kStepEntries], values [kStepEntries][kPanel], out
// [kTileRows][stride].
template <int kVectors>
HWY_INLINE void ValueTile(const float* HWY_RESTRICT weights, const float* HWY_RESTRICT values,
                          int n, const float* HWY_RESTRICT factors, float* HWY_RESTRICT out,
                          int stride) {
  const FloatTag d;
  using V = hn::Vec<FloatTag>;
  V sums[kTileRows][kVectors];
  PITH_UNROLL for (int r = 0; r < kTileRows; ++r) {
    const V factor = hn::Set(d, factors[r]);
    PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = hn::Mul(factor, hn::Load(d, out + r * stride + v * kLanes));
    }
  }
  for (int entry = 0; entry < n; ++entry) {
    V panel[kVectors];
    PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
      panel[v] = hn::Load(d, values + entry * kPanel + v * kLanes);
    }
    PITH_UNROLL for (int r = 0; r < kTileRows; ++r) {
      const V row = hn::Set(d, weights[r * kStepEntries + entry]);
      PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = hn::MulAdd(row, panel[v], sums[r][v]);
      }
    }
  }
  PITH_UNROLL for (int r = 0; r < kTileRows; ++r) {
    PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
      hn::Store(sums[r][v], d, out + r * stride + v * kLanes);
    }
  }
}

// Values [n][head_dim] f16 to panels [ceil(head_dim / kPanel)][kStepEntries][kPanel] f32.
HWY_INLINE void ConvertValues(const F16* HWY_RESTRICT values, int n, int head_dim,
                              float* HWY_RESTRICT panels) {
  const FloatTag d;
  const EightTag d8;
  for (int entry = 0; entry < n; ++entry) {
    const F16* HWY_RESTRICT from = values + entry * head_dim;
    float* HWY_RESTRICT to = panels + entry * kPanel;
    int i = 0;
    for (; i + kLanes <= head_dim; i += kLanes) {
      hn::Store(LoadF16(d, from + i), d, to + i / kPanel * kPanel * kStepEntries + i % kPanel);
    }
    if (i < head_dim) {  // half a vector is left: head_dim is a multiple of 8
      float* HWY_RESTRICT last = to + i / kPanel * kPanel * kStepEntries + i % kPanel;
      hn::Store(hn::Zero(d), d, last);
      hn::Store(LoadF16(d8, from + i), d8, last);
    }
  }
}

// Whether values are summed as integers. Without VNNI products of q8 values take as long as floats.
HWY_INLINE bool HasIntegerValues(const Segment& s) {
  const CodecId id = s.values.id;
  return HWY_TARGET != HWY_SCALAR && (id == CodecId::kQ4 || (id == CodecId::kQ8 && kHasVnni));
}

// The keys of `count` entries from slot `slot` on, to panels.
HWY_INLINE void ConvertPageKeys(const Segment& s, const std::byte* page, int slot, int count,
                                float* HWY_RESTRICT keys) {
  const size_t first = size_t{1} * slot * s.head_dim;
  if (s.keys.id == CodecId::kF16) {
    ConvertKeys(reinterpret_cast<const F16*>(page) + first, count, s.head_dim, keys);
  } else if (s.keys.n_subspaces > 0) {
    ConvertCodes(s.keys, page + slot / kBlockEntries * PqBlockBytes(s.keys), count, s.head_dim,
                 kPanel, keys);
  } else {
    const int dims = RowDims(s.keys, s.head_dim);
    const size_t begin = slot / kBlockEntries * KeyBlockBytes(s.keys.id, dims);
    ConvertQuantisedKeys(s.keys, page + begin, count, dims, kPanel, keys);
  }
}

HWY_INLINE void ConvertPageValues(const Segment& s, const std::byte* page, int slot, int count,
                                  float* HWY_RESTRICT values) {
  const std::byte* part = page + s.key_bytes;
  if (s.values.id == CodecId::kF16) {
    const F16* from = reinterpret_cast<const F16*>(part) + size_t{1} * slot * s.head_dim;
    ConvertValues(from, count, s.head_dim, values);
  } else {
    ConvertQuantisedValues(s.values.id, part, slot, count, s.head_dim, kPanel, values);
  }
}

void Prefill(const Segment& s) {
  const int n_rows = s.n_tokens * s.group;
  const int n_tiles = (n_rows + kTileRows - 1) / kTileRows;
  const int stride = PaddedDim(s.head_dim);
  const int dims = RowDims(s.keys, s.head_dim);
  float* keys = s.scratch;
  float* values = keys + size_t{kStepEntries} * s.head_dim;
  float* q = values + size_t{kStepEntries} * stride;
  float* scores = q + size_t{1} * PaddedRows(n_rows) * s.head_dim;
  float* factors = scores + size_t{1} * PaddedRows(n_rows) * kStepEntries;
  float* sums = factors + PaddedRows(n_rows);
  PackQueries<kTileRows>(s.q, s.q_stride, s.n_tokens, s.group, s.head_dim, s.scale, s.keys, q);
  ClearRows(s);

  ForEachStep(s, [&](int64_t step, int count) HWY_ATTR {
    const std::byte* page = s.pages[step / kPageEntries];
    const auto slot = static_cast<int>(step % kPageEntries);
    ConvertPageKeys(s, page, slot, count, keys);

    // Later rows see more: the tiles that see an entry at all are the last ones.
    const auto visible = [&](int tile) {
      const int last_row = std::min(tile * kTileRows + kTileRows, n_rows) - 1;
      return VisibleInStep(s, last_row, step, count);
    };
    int first_tile = 0;
    while (first_tile < n_tiles && visible(first_tile) == 0) ++first_tile;

    int begin = first_tile;
    for (int entry = 0; entry < count; entry += kPanel) {
      while (begin < n_tiles && visible(begin) <= entry) ++begin;
      for (int tile = begin; tile < n_tiles; ++tile) {
        ScoreTile(q + size_t{1} * tile * kTileRows * dims, keys + entry * dims, dims,
                  scores + size_t{1} * tile * kTileRows * kStepEntries + entry);
      }
    }

    for (int row = first_tile * kTileRows; row < n_tiles * kTileRows; ++row) {
      const int n_visible = row < n_rows ? VisibleInStep(s, row, step, count) : 0;
      factors[row] = SoftmaxRow(scores + size_t{1} * row * kStepEntries, n_visible,
                                s.state.max[row], s.state.sum[row], sums[row]);
    }

#if HWY_TARGET != HWY_SCALAR
    if (HasIntegerValues(s)) {
      const std::byte* part = page + s.key_bytes;  // nothing is fetched that is not there
      for (int row = first_tile * kTileRows; row < n_rows; row += kDecodeRows) {
        ForHeight<kDecodeRows>(std::min(kDecodeRows, n_rows - row), [&](auto height) HWY_ATTR {
          if (CanSkip<height>(s, row, count, sums + row, factors + row)) return;
          AccumulateIntegers<height>(s, page, slot, count, scores + size_t{1} * row * kStepEntries,
                                     sums + row, factors + row,
                                     s.state.vectors + size_t{1} * row * stride, {part, part});
        });
      }
      return;
    }
#endif
    ConvertPageValues(s, page, slot, count, values);
    for (int i = 0; i < s.head_dim; i += kPanel) {
      const float* HWY_RESTRICT panel = values + size_t{1} * i * kStepEntries;
      for (int tile = first_tile; tile < n_tiles; ++tile) {
        const size_t row = size_t{1} * tile * kTileRows;
        float* HWY_RESTRICT out = s.state.vectors + row * stride + i;
        if (i + kLanes < s.head_dim) {
          ValueTile<2>(scores + row * kStepEntries, panel, visible(tile), factors + row, out,
                       stride);
        } else {
          ValueTile<1>(scores + row * kStepEntries, panel, visible(tile), factors + row, out,
                       stride);
        }
      }
    }
  });
  FinishRows(s);
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#endif  // include guard, per level
