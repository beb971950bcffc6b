// Attention of few queries, bound by memory: f16 values are converted in registers, each multiplied
// with a tile of rows (Flash-Decoding). Included once per SIMD level.
#if defined(PITH_ATTENTION_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PITH_ATTENTION_DECODE_INL_H_
#undef PITH_ATTENTION_DECODE_INL_H_
#else
#define PITH_ATTENTION_DECODE_INL_H_
#endif

#include "attention/simd-inl.h"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {

// Three rows x four vectors of accumulators, three broadcasts and one vector of keys or values are
// 16 registers.
inline constexpr int kDecodeRows = kManyRegisters ? 6 : 3;
inline constexpr int kDecodeVectors = 4;

// Scores of R rows against one block of keys.
// q [head_dim][R], k [head_dim][32] f16, scores [R][kStepEntries]. Prefetches head_dim cache lines.
template <int R>
HWY_INLINE void ScoreBlock(const float* HWY_RESTRICT q, const F16* HWY_RESTRICT k, int head_dim,
                           float* HWY_RESTRICT scores, const std::byte* prefetch) {
  const FloatTag d;
  using V = hn::Vec<FloatTag>;
  constexpr int kVectors = std::min(kDecodeVectors, kBlockEntries / kLanes);
  for (int first = 0; first < kBlockEntries; first += kVectors * kLanes) {
    V sums[R][kVectors];
    PITH_UNROLL for (int r = 0; r < R; ++r) {
      PITH_UNROLL for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(d);
    }
    for (int i = 0; i < head_dim; ++i) {
      if (first == 0) hwy::Prefetch(prefetch + i * 64);
      V rows[R];
      PITH_UNROLL for (int r = 0; r < R; ++r) rows[r] = hn::Set(d, q[i * R + r]);
      PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
        const V keys = LoadF16(d, k + i * kBlockEntries + first + v * kLanes);
        PITH_UNROLL for (int r = 0; r < R; ++r) {
          sums[r][v] = hn::MulAdd(rows[r], keys, sums[r][v]);
        }
      }
    }
    PITH_UNROLL for (int r = 0; r < R; ++r) {
      PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
        hn::Store(sums[r][v], d, scores + r * kStepEntries + first + v * kLanes);
      }
    }
  }
}

// out[r] = factor[r] * out[r] + sum over n entries of weight * value, for kVectors vectors of
// dimensions. v [n][head_dim] f16, weights [R][kStepEntries], out [R][stride].
template <int R, int kVectors, class D>
HWY_INLINE void AccumulateTile(D d, const F16* HWY_RESTRICT v, int n, int head_dim,
                               const float* HWY_RESTRICT weights, const float* HWY_RESTRICT factors,
                               float* HWY_RESTRICT out, int stride, const std::byte* prefetch) {
  using V = hn::Vec<D>;
  constexpr int kWidth = static_cast<int>(hn::MaxLanes(D()));
  V sums[R][kVectors];
  PITH_UNROLL for (int r = 0; r < R; ++r) {
    const V factor = hn::Set(d, factors[r]);
    PITH_UNROLL for (int i = 0; i < kVectors; ++i) {
      sums[r][i] = hn::Mul(factor, hn::Load(d, out + r * stride + i * kWidth));
    }
  }
  for (int entry = 0; entry < n; ++entry) {
    hwy::Prefetch(prefetch + entry * head_dim * sizeof(F16));
    V rows[R];
    PITH_UNROLL for (int r = 0; r < R; ++r) {
      rows[r] = hn::Set(d, weights[r * kStepEntries + entry]);
    }
    PITH_UNROLL for (int i = 0; i < kVectors; ++i) {
      const V values = LoadF16(d, v + entry * head_dim + i * kWidth);
      PITH_UNROLL for (int r = 0; r < R; ++r) sums[r][i] = hn::MulAdd(rows[r], values, sums[r][i]);
    }
  }
  PITH_UNROLL for (int r = 0; r < R; ++r) {
    PITH_UNROLL for (int i = 0; i < kVectors; ++i) {
      hn::Store(sums[r][i], d, out + r * stride + i * kWidth);
    }
  }
}

template <int R>
HWY_INLINE void AccumulateValues(const F16* HWY_RESTRICT v, int n, int head_dim,
                                 const float* HWY_RESTRICT weights,
                                 const float* HWY_RESTRICT factors, float* HWY_RESTRICT out,
                                 const std::byte* prefetch) {
  const int stride = PaddedDim(head_dim);
  int i = 0;
  for (; i + kDecodeVectors * kLanes <= head_dim; i += kDecodeVectors * kLanes) {
    AccumulateTile<R, kDecodeVectors>(FloatTag(), v + i, n, head_dim, weights, factors, out + i,
                                      stride, prefetch + i * sizeof(F16));
  }
  for (; i + kLanes <= head_dim; i += kLanes) {
    AccumulateTile<R, 1>(FloatTag(), v + i, n, head_dim, weights, factors, out + i, stride,
                         prefetch + i * sizeof(F16));
  }
  if (i < head_dim) {
    AccumulateTile<R, 1>(EightTag(), v + i, n, head_dim, weights, factors, out + i, stride,
                         prefetch + i * sizeof(F16));
  }
}

// R rows from `row` on against `count` entries from `step` on; `next` is an entry soon needed.
template <int R>
HWY_INLINE void DecodeStep(const Segment& s, int row, int64_t step, int count, int64_t next,
                           const float* HWY_RESTRICT q, float* HWY_RESTRICT scores,
                           float* HWY_RESTRICT factors) {
  const size_t key_bytes = F16KeyBytes(s.head_dim);
  const std::byte* page = s.pages[step / kPageEntries];
  const auto offset = static_cast<int>(step % kPageEntries);
  const std::byte* values = page + key_bytes;
  // Pages are scattered: while one is computed with, the next one is fetched line by line. Measured
  // on Zen 3, a whole page ahead beats half a page by 10 % and no prefetching by 30 %.
  const std::byte* next_page = s.pages[next / kPageEntries];
  for (int i = 0; i < count; i += kBlockEntries) {
    const size_t block = static_cast<size_t>(offset + i) * s.head_dim;
    ScoreBlock<R>(q, reinterpret_cast<const F16*>(page) + block, s.head_dim, scores + i,
                  next_page + block * sizeof(F16));
  }
  for (int r = 0; r < R; ++r) {
    factors[r] = SoftmaxRow(scores + r * kStepEntries, VisibleInStep(s, row + r, step, count),
                            s.state.max[row + r], s.state.sum[row + r]);
  }
  AccumulateValues<R>(reinterpret_cast<const F16*>(values) + size_t{1} * offset * s.head_dim, count,
                      s.head_dim, scores, factors,
                      s.state.vectors + size_t{1} * row * PaddedDim(s.head_dim),
                      next_page + key_bytes);
}

// DecodeStep<height>, for heights of 1..kMax.
template <int kMax>
HWY_INLINE void DecodeTile(const Segment& s, int height, int row, int64_t step, int count,
                           int64_t next, const float* HWY_RESTRICT q, float* HWY_RESTRICT scores,
                           float* HWY_RESTRICT factors) {
  if constexpr (kMax > 1) {
    if (height < kMax) {
      return DecodeTile<kMax - 1>(s, height, row, step, count, next, q, scores, factors);
    }
  }
  DecodeStep<kMax>(s, row, step, count, next, q, scores, factors);
}

void Decode(const Segment& s) {
  const int n_rows = s.n_tokens * s.group;
  float* q = s.scratch;
  float* scores = q + size_t{1} * PaddedRows(n_rows) * s.head_dim;
  float* factors = scores + kDecodeRows * kStepEntries;
  ClearRows(s);

  // Tiles of equal height; the heights are at most kDecodeRows.
  const int n_tiles = (n_rows + kDecodeRows - 1) / kDecodeRows;
  const auto tile_begin = [&](int tile) { return n_rows * tile / n_tiles; };
  for (int tile = 0; tile < n_tiles; ++tile) {
    const int begin = tile_begin(tile);
    const int height = tile_begin(tile + 1) - begin;
    for (int r = 0; r < height; ++r) {
      const int row = begin + r;
      const float* from = s.q + row / s.group * s.q_stride + row % s.group * s.head_dim;
      float* to = q + size_t{1} * begin * s.head_dim + r;
      for (int d = 0; d < s.head_dim; ++d) to[d * height] = from[d] * s.scale;
    }
  }

  for (int64_t step = s.begin; step < s.end;) {
    const int64_t next = std::min((step / kPageEntries + 1) * kPageEntries, s.end);
    const int count = static_cast<int>(next - step);
    for (int tile = 0; tile < n_tiles; ++tile) {
      const int row = tile_begin(tile);
      if (VisibleInStep(s, tile_begin(tile + 1) - 1, step, count) == 0) continue;
      DecodeTile<kDecodeRows>(s, tile_begin(tile + 1) - row, row, step, count,
                              std::min(next, s.end - 1), q + size_t{1} * row * s.head_dim, scores,
                              factors);
    }
    step = next;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#endif  // include guard, per level
