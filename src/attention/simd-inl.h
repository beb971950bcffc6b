// What both kernels are made of: f16 loads, 2^x, the online softmax over one step, packed queries.
// Included once per SIMD level.
#if defined(PITH_ATTENTION_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PITH_ATTENTION_SIMD_INL_H_
#undef PITH_ATTENTION_SIMD_INL_H_
#else
#define PITH_ATTENTION_SIMD_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "attention/kernels.h"
#include "attention/softmax_state.h"
#include "cache/hadamard.h"
#include "hwy/highway.h"

// Register tiles are arrays of vectors; they stay in registers only when these loops are unrolled.
#ifdef __clang__
#define PITH_UNROLL _Pragma("clang loop unroll(full)")
#else
#define PITH_UNROLL _Pragma("GCC unroll 16")
#endif

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::CappedTag<float, 16>;
using EightTag = hn::CappedTag<float, 8>;  // a head_dim is a multiple of 8, not of every vector
using FourTag = hn::CappedTag<float, 4>;
inline constexpr int kEights = static_cast<int>(hn::MaxLanes(EightTag()));
inline constexpr int kLanes = static_cast<int>(hn::MaxLanes(FloatTag()));
inline constexpr bool kHasVnni = HWY_TARGET == HWY_AVX3_DL;  // and VBMI: tables of 128 bytes
inline constexpr bool kHasAvx512 = HWY_TARGET == HWY_AVX3 || kHasVnni;
inline constexpr bool kManyRegisters = HWY_TARGET == HWY_NEON || kHasAvx512;  // 32 rather than 16

inline constexpr int kDecodeRows = kManyRegisters ? 6 : 4;
// Vectors of a tile of R rows, so that accumulators, R broadcasts and a vector of keys or values
// are at most 16 registers: 3 x 4 or 4 x 2 accumulators.
template <int R>
inline constexpr int kDecodeVectors = R <= 3 || kManyRegisters ? 4 : 2;

inline constexpr bool kHasF16 = HWY_TARGET != HWY_SSE4 && HWY_TARGET != HWY_SSSE3 &&
                                HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128;

// The next lanes of f16 values, which need no alignment, in f32. Where the instruction set does not
// convert f16, infinities and NaN become numbers from 65536 on.
template <class D>
HWY_INLINE hn::Vec<D> LoadF16(D d, const F16* HWY_RESTRICT from) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<hwy::float16_t, D> dh;
  return hn::PromoteTo(d, hn::BitCast(dh, hn::LoadU(d16, from)));
}

// 2^x for x <= 0 with a relative error below 2 * 2^-23; exactly 1 at 0, 0 below -126, NaN at NaN.
// x is split into its nearest integer and f in [-1/2, 1/2]; 2^f by the minimax polynomial of degree
// 5 with constant term 1, whose own relative error is 9.2e-8.
template <class D>
HWY_INLINE hn::Vec<D> Exp2(D d, hn::Vec<D> x) {
  const hn::RebindToSigned<D> di;
  // Adding 1.5 * 2^23 rounds to an integer and leaves it, plus the exponent bias 127, in the low
  // bits: a shift makes 2^integer of them. Only good for x >= -126, the rest is overwritten below.
  const auto magic = hn::Set(d, 12582912.0f + 127.0f);
  const auto shifted = hn::Add(x, magic);
  const auto f = hn::Sub(x, hn::Sub(shifted, magic));
  const auto power = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(di, shifted)));
  auto y = hn::Set(d, 1.326472731e-03f);
  y = hn::MulAdd(y, f, hn::Set(d, 9.671512991e-03f));
  y = hn::MulAdd(y, f, hn::Set(d, 5.550733581e-02f));
  y = hn::MulAdd(y, f, hn::Set(d, 2.402224243e-01f));
  y = hn::MulAdd(y, f, hn::Set(d, 6.931470037e-01f));
  y = hn::MulAdd(y, f, hn::Set(d, 1.0f));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -126.0f)), hn::Mul(y, power));
}

// fn(std::integral_constant<int, height>()), for heights of 1..kMax.
template <int kMax, class Fn>
HWY_INLINE void ForHeight(int height, const Fn& fn) {
  if constexpr (kMax > 1) {
    if (height < kMax) return ForHeight<kMax - 1>(height, fn);
  }
  fn(std::integral_constant<int, kMax>());
}

// As Hadamard (cache/hadamard.h).
inline void Rotate(float* HWY_RESTRICT row, int n) {
#if HWY_TARGET == HWY_SCALAR
  Hadamard(row, n);
#else
  const FourTag d;
  using V = hn::Vec<FourTag>;
  const int dims = HadamardDims(n);  // 8 or more
  alignas(16) static constexpr float kSigns[2][4] = {{1, -1, 1, -1}, {1, 1, -1, -1}};
  const V by_ones = hn::Load(d, kSigns[0]);
  const V by_twos = hn::Load(d, kSigns[1]);
  const V norm = hn::Set(d, 1.0f / std::sqrt(static_cast<float>(dims)));
  for (int i = 0; i < n; i += 4) {
    V x = hn::Mul(norm, hn::LoadU(d, row + i));
    x = hn::MulAdd(x, by_ones, hn::Shuffle2301(x));
    hn::StoreU(hn::MulAdd(x, by_twos, hn::Shuffle1032(x)), d, row + i);
  }
  for (int half = 4; half < dims; half *= 2) {
    for (int begin = 0; begin < n; begin += 2 * half) {
      for (int i = begin; i < begin + half; i += 4) {
        const V a = hn::LoadU(d, row + i);
        const V b = hn::LoadU(d, row + i + half);
        hn::StoreU(hn::Add(a, b), d, row + i);
        hn::StoreU(hn::Sub(a, b), d, row + i + half);
      }
    }
  }
#endif
}

// As MapQuery, of kVectors vectors of what it gives.
template <int kVectors>
HWY_INLINE void MapTile(const float* HWY_RESTRICT q, int head_dim, const float* HWY_RESTRICT map,
                        int dims, float* HWY_RESTRICT to) {
  const EightTag d8;
  hn::Vec<EightTag> sums[kVectors];
  PITH_UNROLL for (int v = 0; v < kVectors; ++v) sums[v] = hn::Zero(d8);
  for (int d = 0; d < head_dim; ++d) {
    const auto x = hn::Set(d8, q[d]);
    PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
      sums[v] = hn::MulAdd(x, hn::LoadU(d8, map + d * dims + v * kEights), sums[v]);
    }
  }
  PITH_UNROLL for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[v], d8, to + v * kEights);
}

// The products of a query [head_dim] with what keys are sums of (cache/pq_layout.h, low_rank.h).
// map [head_dim][dims], to [dims]
inline HWY_NOINLINE void MapQuery(const float* HWY_RESTRICT q, int head_dim,
                                  const float* HWY_RESTRICT map, int dims, float* HWY_RESTRICT to) {
  constexpr int kVectors = 8;
  int i = 0;
  for (; i + kVectors * kEights <= dims; i += kVectors * kEights) {
    MapTile<kVectors>(q, head_dim, map + i, dims, to + i);
  }
  for (; i < dims; i += kEights) MapTile<1>(q, head_dim, map + i, dims, to + i);
}

// A query as the keys lie: scaled, its products with a codebook's map in place of itself,
// multiplied by what they were divided by, rotated for q4. from [head_dim], q [head_dim], of which
// RowDims are what it becomes.
HWY_INLINE void LoadQuery(const float* HWY_RESTRICT from, int head_dim, float scale,
                          const RowFormat& keys, float* HWY_RESTRICT q) {
  for (int d = 0; d < head_dim; ++d) q[d] = from[d] * scale;
  const int dims = RowDims(keys, head_dim);
  if (keys.codebook != nullptr) {
    float plain[kMaxHeadDim];
    std::copy_n(q, head_dim, plain);
    MapQuery(plain, head_dim, keys.codebook, dims, q);
  }
  for (int d = 0; keys.spread != nullptr && d < dims; ++d) q[d] *= keys.spread[d];
  if (keys.id == CodecId::kQ4) Rotate(q, dims);
}

// Queries [n_tokens][group][head_dim], tokens q_stride apart, loaded and interleaved by tiles of
// kTile rows: [tile][RowDims][kTile], so that the broadcasts of one step of the dot products are
// neighbours. Rows past the last are zeros.
template <int kTile>
HWY_INLINE void PackQueries(const float* HWY_RESTRICT q, int64_t q_stride, int n_tokens, int group,
                            int head_dim, float scale, const RowFormat& keys,
                            float* HWY_RESTRICT packed) {
  const int n_rows = n_tokens * group;
  const int dims = RowDims(keys, head_dim);
  for (int row = 0; row < (n_rows + kTile - 1) / kTile * kTile; ++row) {
    float one[kMaxHeadDim] = {};
    if (row < n_rows) {
      LoadQuery(q + row / group * q_stride + row % group * head_dim, head_dim, scale, keys, one);
    }
    float* HWY_RESTRICT to = packed + row / kTile * kTile * dims + row % kTile;
    for (int d = 0; d < dims; ++d) to[d * kTile] = one[d];
  }
}

HWY_INLINE void ClearRows(const Segment& s) {
  const int n_rows = PaddedRows(s.n_tokens * s.group);
  std::fill_n(s.state.max, n_rows, SoftmaxState<float>::Empty());
  std::fill_n(s.state.sum, n_rows, 0.0f);
  std::fill_n(s.state.vectors, size_t{1} * n_rows * PaddedDim(s.head_dim), 0.0f);
}

// Rotates back what was summed of rotated values.
HWY_INLINE void FinishRows(const Segment& s) {
  if (s.values.id != CodecId::kQ4) return;
  for (int row = 0; row < s.n_tokens * s.group; ++row) {
    Rotate(s.state.vectors + size_t{1} * row * PaddedDim(s.head_dim), s.head_dim);
  }
}

// Turns one row of scores [kStepEntries] into weights 2^(score - max), zero from `n_visible` on,
// whatever was there, or only sums them, to step_sum and sum. Returns the factor by which what was
// summed before must be multiplied.
template <bool kKeepWeights = true>
HWY_INLINE float SoftmaxRow(float* HWY_RESTRICT scores, int n_visible, float& max, float& sum,
                            float& step_sum) {
  const FloatTag d;
  const auto minus_infinity = hn::Set(d, -std::numeric_limits<float>::infinity());
  const int n_whole = n_visible / kLanes * kLanes;
  const auto tail = hn::FirstN(d, static_cast<size_t>(n_visible - n_whole));

  auto largest = minus_infinity;
  for (int i = 0; i < n_whole; i += kLanes) largest = hn::Max(largest, hn::Load(d, scores + i));
  if (n_whole < n_visible) {
    const auto masked = hn::IfThenElse(tail, hn::Load(d, scores + n_whole), minus_infinity);
    largest = hn::Max(largest, masked);
    hn::Store(masked, d, scores + n_whole);
  }

  // The maximum rarely moves; the sum across lanes is made only when it does.
  float factor = 1.0f;
  if (!hn::AllFalse(d, hn::Gt(largest, hn::Set(d, max)))) {
    const float new_max = hn::GetLane(hn::MaxOfLanes(d, largest));
    factor = hn::GetLane(Exp2(d, hn::Set(d, max - new_max)));
    max = new_max;
  }

  const auto v_max = hn::Set(d, max);
  auto total = hn::Zero(d);
  int i = 0;
  for (; i < n_visible; i += kLanes) {
    const auto weight = Exp2(d, hn::Sub(hn::Load(d, scores + i), v_max));
    total = hn::Add(total, weight);
    if constexpr (kKeepWeights) hn::Store(weight, d, scores + i);
  }
  if constexpr (kKeepWeights) {
    for (; i < kStepEntries; i += kLanes) hn::Store(hn::Zero(d), d, scores + i);
  }
  step_sum = hn::GetLane(hn::SumOfLanes(d, total));
  sum = sum * factor + step_sum;
  return factor;
}

// How many of the `count` entries from `step` on the row's query sees.
HWY_INLINE int VisibleInStep(const Segment& s, int row, int64_t step, int count) {
  const int token = s.n_tokens == 1 ? 0 : row / s.group;  // a division is slow
  const int64_t visible = s.first_visible + token * int64_t{s.visible_step} - step;
  return static_cast<int>(std::clamp<int64_t>(visible, 0, count));
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#endif  // include guard, per level
