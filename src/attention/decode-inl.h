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

inline constexpr int kDecodeRows = kManyRegisters ? 6 : 4;
// Vectors of a tile of R rows, so that accumulators, R broadcasts and a vector of keys or values
// are at most 16 registers: 3 x 4 or 4 x 2 accumulators.
template <int R>
inline constexpr int kDecodeVectors = R <= 3 || kManyRegisters ? 4 : 2;

// What is fetched while a page is computed with. Pages are scattered, and the hardware's
// prefetchers, which follow what is read in order, begin anew every 4 KiB: so two runs of lines are
// fetched by turns, the second half of the next page and the first half of the page after it.
// Measured on Zen 3, this reads 15 to 40 % faster than the whole next page in order, which is 3 to
// 16 % faster than fetching nothing; four runs are within 3 % of two.
struct Ahead {
  const std::byte* near;
  const std::byte* far;

  Ahead operator+(size_t n_read) const { return {near + n_read / 2, far + n_read / 2}; }
};
// In step with a loop whose step i reads kBytes: one line of each run for every two lines read.
template <int kBytes>
HWY_INLINE void Fetch(const Ahead& ahead, int i) {
  constexpr int kSteps = std::max(128 / kBytes, 1);
  static_assert(kSteps * kBytes == 128);
  if (i % kSteps != 0) return;
  hwy::Prefetch(ahead.near + i * (kBytes / 2));
  hwy::Prefetch(ahead.far + i * (kBytes / 2));
}

// Scores of R rows against one block of keys.
// q [head_dim][R], k [head_dim][32] f16, scores [R][kStepEntries].
template <int R>
HWY_INLINE void ScoreBlock(const float* HWY_RESTRICT q, const F16* HWY_RESTRICT k, int head_dim,
                           float* HWY_RESTRICT scores, const Ahead& ahead) {
  const FloatTag d;
  using V = hn::Vec<FloatTag>;
  constexpr int kVectors = std::min(kDecodeVectors<R>, kBlockEntries / kLanes);
  constexpr int kWidth = kVectors * kLanes;
  for (int first = 0; first < kBlockEntries; first += kWidth) {
    const Ahead of_pass = ahead + first * head_dim * sizeof(F16);
    V sums[R][kVectors];
    PITH_UNROLL for (int r = 0; r < R; ++r) {
      PITH_UNROLL for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(d);
    }
    for (int i = 0; i < head_dim; ++i) {
      Fetch<kWidth * sizeof(F16)>(of_pass, i);
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
                               float* HWY_RESTRICT out, int stride, const Ahead& ahead) {
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
    Fetch<kVectors * kWidth * sizeof(F16)>(ahead, entry);
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
                                 const Ahead& ahead) {
  const int stride = PaddedDim(head_dim);
  const auto ahead_at = [&](int i) { return ahead + size_t{1} * i * n * sizeof(F16); };
  constexpr int kVectors = kDecodeVectors<R>;
  int i = 0;
  for (; i + kVectors * kLanes <= head_dim; i += kVectors * kLanes) {
    AccumulateTile<R, kVectors>(FloatTag(), v + i, n, head_dim, weights, factors, out + i, stride,
                                ahead_at(i));
  }
  for (; i + kLanes <= head_dim; i += kLanes) {
    AccumulateTile<R, 1>(FloatTag(), v + i, n, head_dim, weights, factors, out + i, stride,
                         ahead_at(i));
  }
  if (i < head_dim) {
    AccumulateTile<R, 1>(EightTag(), v + i, n, head_dim, weights, factors, out + i, stride,
                         ahead_at(i));
  }
}

// R rows from `row` on against `count` entries from `step` on.
template <int R>
HWY_INLINE void DecodeStep(const Segment& s, int row, int64_t step, int count,
                           const float* HWY_RESTRICT q, float* HWY_RESTRICT scores,
                           float* HWY_RESTRICT factors) {
  const std::byte* page = s.pages[step / kPageEntries];
  const auto offset = static_cast<int>(step % kPageEntries);
  const std::byte* values = page + s.key_bytes;
  const auto page_after = [&](int64_t n) {
    return s.pages[std::min(step + n * kPageEntries, s.end - 1) / kPageEntries];
  };
  const Ahead ahead = {page_after(1) + s.key_bytes, page_after(2)};
  for (int i = 0; i < count; i += kBlockEntries) {
    const size_t block = static_cast<size_t>(offset + i) * s.head_dim;
    ScoreBlock<R>(q, reinterpret_cast<const F16*>(page) + block, s.head_dim, scores + i,
                  ahead + block * sizeof(F16));
  }
  for (int r = 0; r < R; ++r) {
    factors[r] = SoftmaxRow(scores + r * kStepEntries, VisibleInStep(s, row + r, step, count),
                            s.state.max[row + r], s.state.sum[row + r]);
  }
  AccumulateValues<R>(reinterpret_cast<const F16*>(values) + size_t{1} * offset * s.head_dim, count,
                      s.head_dim, scores, factors,
                      s.state.vectors + size_t{1} * row * PaddedDim(s.head_dim),
                      ahead + s.key_bytes);
}

// DecodeStep<height>, for heights of 1..kMax.
template <int kMax>
HWY_INLINE void DecodeTile(const Segment& s, int height, int row, int64_t step, int count,
                           const float* HWY_RESTRICT q, float* HWY_RESTRICT scores,
                           float* HWY_RESTRICT factors) {
  if constexpr (kMax > 1) {
    if (height < kMax) {
      return DecodeTile<kMax - 1>(s, height, row, step, count, q, scores, factors);
    }
  }
  DecodeStep<kMax>(s, row, step, count, q, scores, factors);
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
                              q + size_t{1} * row * s.head_dim, scores, factors);
    }
    step = next;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#endif  // include guard, per level
