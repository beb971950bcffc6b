// Weighted sums of values that are integers with scales (cache/quantised_layout.h). Few queries:
// the scale of an entry joins its weight, the product is rounded to an integer, and what is summed
// over the entries of a page is products of integers, two entries an instruction. Many queries:
// values are converted to f32 once. Included once per SIMD level.
//
// A rounded product errs by at most h = max weight * max |scale| / 65534 over the entries of the
// page, so an output errs, before the division by the sum of weights, by at most
// n * h * max |code| for the n entries of a page: 2^-10 of the largest value that the page's scales
// can say where one weight is all, and less where many share it.
#if defined(PITH_ATTENTION_QUANTISED_VALUES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PITH_ATTENTION_QUANTISED_VALUES_INL_H_
#undef PITH_ATTENTION_QUANTISED_VALUES_INL_H_
#else
#define PITH_ATTENTION_QUANTISED_VALUES_INL_H_
#endif

#include <type_traits>

#include "attention/integer-inl.h"
#include "attention/prefetch-inl.h"
#include "cache/quantised_layout.h"

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {

// Words of q4 values: at most eight of them, for two entries each, whatever the vector.
using WordTag = hn::CappedTag<int32_t, 8>;
inline constexpr int kWords = static_cast<int>(hn::MaxLanes(WordTag()));

#if HWY_TARGET != HWY_SCALAR
// Pairs of entries are taken this many at a time; weights behind the last entry are zero.
inline constexpr int kPairStep = 4;

// Weights of R rows times the scales of one block of dimensions: codes * units.
template <int R>
struct RoundedWeights {
  alignas(kPageAlignment) int16_t codes[R][kStepEntries];
  float units[R];
  int32_t sums[R];  // of codes

  // A pair of entries, for every lane.
  template <class D16>
  HWY_INLINE hn::Vec<D16> Pair(D16 d16, int r, int pair) const {
    const hn::Repartition<int32_t, D16> d32;
    return hn::BitCast(d16, hn::Set(d32, reinterpret_cast<const int32_t*>(codes[r])[pair]));
  }
};

// The largest of n weights of each row; what is behind them in a vector is zero.
template <int R>
HWY_INLINE void LargestWeights(const float* HWY_RESTRICT weights, int n, float (&largest)[R]) {
  const FloatTag d;
  for (int r = 0; r < R; ++r) {
    auto max = hn::Zero(d);
    for (int i = 0; i < n; i += kLanes) {
      max = hn::Max(max, hn::Load(d, weights + r * kStepEntries + i));
    }
    largest[r] = hn::GetLane(hn::MaxOfLanes(d, max));
  }
}

// scales [n] f16, weights [R][kStepEntries].
template <int R>
HWY_INLINE void RoundWeights(const F16* HWY_RESTRICT scales, int n,
                             const float* HWY_RESTRICT weights, const float (&largest)[R],
                             RoundedWeights<R>& rounded) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> d32;
  const hn::Rebind<int16_t, FloatTag> d16;
  alignas(kPageAlignment) float of_entries[kStepEntries];
  auto max = hn::Zero(d);
  auto poison = hn::Zero(d);  // NaN where a scale is, which the maximum may miss
  constexpr int kStep = std::max(2 * kLanes, 2 * kPairStep);
  const int n_padded = (n + kStep - 1) / kStep * kStep;
  for (int i = 0; i < n_padded; i += kLanes) {
    auto scale = LoadScales(d, scales + i);
    if (i + kLanes > n) {
      scale = hn::IfThenElseZero(hn::FirstN(d, static_cast<size_t>(std::max(n - i, 0))), scale);
    }
    hn::Store(scale, d, of_entries + i);
    max = hn::Max(max, hn::Abs(scale));
    poison = hn::MulAdd(scale, hn::Zero(d), poison);
  }
  const float largest_scale =
      hn::GetLane(hn::MaxOfLanes(d, max)) + hn::GetLane(hn::SumOfLanes(d, poison));
  for (int r = 0; r < R; ++r) {
    const float bound = largest_scale * largest[r];
    const auto inverse = hn::Set(d, bound > 1e-30f ? 32767.0f / bound : 0.0f);
    rounded.units[r] = bound / 32767.0f;
    auto sum = hn::Zero(d32);
    for (int i = 0; i < n_padded; i += kStep) {
      PITH_UNROLL for (int v = 0; v < kStep / kLanes; ++v) {
        const int j = i + v * kLanes;
        const auto weight = hn::Mul(hn::Load(d, weights + r * kStepEntries + j), inverse);
        const auto code = RoundToInt(d, hn::Mul(weight, hn::Load(d, of_entries + j)));
        sum = hn::Add(sum, code);
        hn::Store(hn::DemoteTo(d16, code), d16, rounded.codes[r] + j);
      }
    }
    rounded.sums[r] = hn::GetLane(hn::SumOfLanes(d32, sum));
  }
}

// to = factor * to + unit * sum.
template <class D>
HWY_INLINE void AddSum(D d, hn::Vec<hn::RebindToSigned<D>> sum, float unit, float factor,
                       float* HWY_RESTRICT to) {
  const auto before = hn::Mul(hn::Set(d, factor), hn::LoadU(d, to));
  hn::StoreU(hn::MulAdd(hn::Set(d, unit), hn::ConvertTo(d, sum), before), d, to);
}

// kVectors vectors of dimensions over n entries. values [n/2][head_dim][2], out [R][stride].
template <int R, int kVectors, class D>
HWY_INLINE void AccumulateTileQ8(D d, const int8_t* HWY_RESTRICT values, int n, int head_dim,
                                 const RoundedWeights<R>& weights,
                                 const float* HWY_RESTRICT factors, float* HWY_RESTRICT out,
                                 int stride, const Ahead& ahead) {
  constexpr int kWidth = static_cast<int>(hn::MaxLanes(D()));
  const hn::RebindToSigned<D> d32;
  const hn::Repartition<int16_t, D> d16;
  const hn::Rebind<int8_t, decltype(d16)> d8;
  hn::Vec<decltype(d32)> sums[R][kVectors];
  PITH_UNROLL for (int r = 0; r < R; ++r) {
    PITH_UNROLL for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(d32);
  }
  for (int step = 0; step < (n + 1) / 2; step += kPairStep) {
    PITH_UNROLL for (int i = 0; i < kPairStep; ++i) {
      const int pair = step + i;
      constexpr int kBytes = kVectors * kWidth * 2;
      if (i * kBytes % 128 == 0) Fetch(ahead + size_t{1} * pair * kBytes);
      hn::Vec<decltype(d16)> rows[R];
      PITH_UNROLL for (int r = 0; r < R; ++r) rows[r] = weights.Pair(d16, r, pair);
      PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
        const auto both =
            hn::PromoteTo(d16, hn::LoadU(d8, values + (pair * head_dim + v * kWidth) * 2));
        PITH_UNROLL for (int r = 0; r < R; ++r) {
          Accumulate(sums[r][v], MulPairs(d32, rows[r], both));
        }
      }
    }
  }
  PITH_UNROLL for (int r = 0; r < R; ++r) {
    PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
      AddSum(d, sums[r][v], weights.units[r], factors[r], out + r * stride + v * kWidth);
    }
  }
}

// out[r] = factor[r] * out[r] + sum of weight * value over `count` q8 entries from `slot` on, an
// even one. weights [R][kStepEntries], out [R][PaddedDim(head_dim)].
template <int R>
HWY_NOINLINE void AccumulateQ8(const std::byte* HWY_RESTRICT part, int slot, int count,
                               int head_dim, const float* HWY_RESTRICT weights,
                               const float* HWY_RESTRICT factors, float* HWY_RESTRICT out,
                               const Ahead& ahead) {
  constexpr int kVectors = std::min(kIntegerVectors<R>, kScaleDims / kLanes);
  const int stride = PaddedDim(head_dim);
  const auto* codes = reinterpret_cast<const int8_t*>(part) + slot * head_dim;
  const size_t n_codes = CodeBytes(CodecId::kQ8, PagePart::kValues, head_dim);
  const auto* scales = reinterpret_cast<const F16*>(part + n_codes) + slot;
  float largest[R];
  LargestWeights(weights, count, largest);
  RoundedWeights<R> rounded;
  for (int begin = 0; begin < head_dim; begin += kScaleDims) {
    const int block = begin / kScaleDims;
    Fetch(ahead + n_codes + size_t{128} * block);
    RoundWeights(scales + block * kPageEntries, count, weights, largest, rounded);
    const int end = std::min(begin + kScaleDims, head_dim);
    const auto ahead_at = [&](int i) { return ahead + size_t{1} * i * count; };
    int i = begin;
    for (; i + kVectors * kLanes <= end; i += kVectors * kLanes) {
      AccumulateTileQ8<R, kVectors>(FloatTag(), codes + i * 2, count, head_dim, rounded, factors,
                                    out + i, stride, ahead_at(i));
    }
    for (; i + kLanes <= end; i += kLanes) {
      AccumulateTileQ8<R, 1>(FloatTag(), codes + i * 2, count, head_dim, rounded, factors, out + i,
                             stride, ahead_at(i));
    }
    if (i < end) {
      AccumulateTileQ8<R, 1>(EightTag(), codes + i * 2, count, head_dim, rounded, factors, out + i,
                             stride, ahead_at(i));
    }
  }
}

// The codes of one dimension of the four in each word.
template <int kFirst, class V16>
HWY_INLINE V16 Plane(V16 words, int plane) {
  const hn::DFromV<V16> d;
  switch (kFirst + plane) {  // shifts are immediates
    case 0:
      return hn::And(words, hn::Set(d, 0xf));
    case 1:
      return hn::And(hn::ShiftRight<4>(words), hn::Set(d, 0xf));
    case 2:
      return hn::And(hn::ShiftRight<8>(words), hn::Set(d, 0xf));
    default:
      return hn::ShiftRight<12>(words);
  }
}

// kPlanes of the four dimensions in each word, from kFirstPlane on, over n entries of one block of
// 32 dimensions. values: [n/2] words `pair_stride` apart, out [R][stride], from the first plane's
// dimensions on.
template <int R, int kPlanes, int kFirstPlane>
HWY_INLINE void AccumulateTileQ4(const int32_t* HWY_RESTRICT values, int n, int pair_stride,
                                 const RoundedWeights<R>& weights,
                                 const float* HWY_RESTRICT factors, float* HWY_RESTRICT out,
                                 int stride, const Ahead& ahead) {
  const WordTag d32;
  const hn::RebindToFloat<WordTag> d;
  const hn::Repartition<uint16_t, WordTag> d16;
  const hn::Repartition<int16_t, WordTag> d16s;
  hn::Vec<WordTag> sums[R][kPlanes];
  PITH_UNROLL for (int r = 0; r < R; ++r) {
    const auto offset = hn::Set(d32, -kQ4Zero * weights.sums[r]);
    PITH_UNROLL for (int p = 0; p < kPlanes; ++p) sums[r][p] = offset;
  }
  for (int step = 0; step < (n + 1) / 2; step += kPairStep) {
    PITH_UNROLL for (int i = 0; i < kPairStep; ++i) {
      const int pair = step + i;
      constexpr int kBytes = kWords * kPlanes;
      if (pair * kBytes % 128 == 0) Fetch(ahead + size_t{1} * pair * kBytes);
      const auto words = hn::BitCast(d16, hn::Load(d32, values + pair * pair_stride));
      hn::Vec<decltype(d16s)> rows[R];
      PITH_UNROLL for (int r = 0; r < R; ++r) rows[r] = weights.Pair(d16s, r, pair);
      PITH_UNROLL for (int p = 0; p < kPlanes; ++p) {
        const auto codes = hn::BitCast(d16s, Plane<kFirstPlane>(words, p));
        PITH_UNROLL for (int r = 0; r < R; ++r) {
          Accumulate(sums[r][p], MulPairs(d32, rows[r], codes));
        }
      }
    }
  }
  PITH_UNROLL for (int r = 0; r < R; ++r) {
    PITH_UNROLL for (int p = 0; p < kPlanes; ++p) {
      AddSum(d, sums[r][p], weights.units[r], factors[r], out + r * stride + p * 8);
    }
  }
}

// As AccumulateQ8, of q4 values; out stays rotated, and its padding gets numbers without meaning.
template <int R>
HWY_NOINLINE void AccumulateQ4(const std::byte* HWY_RESTRICT part, int slot, int count,
                               int head_dim, const float* HWY_RESTRICT weights,
                               const float* HWY_RESTRICT factors, float* HWY_RESTRICT out,
                               const Ahead& ahead) {
  constexpr int kPlanes = kIntegerVectors<R>;
  const int stride = PaddedDim(head_dim);
  const int n_blocks = ScaleCount(head_dim);
  const auto* words = reinterpret_cast<const int32_t*>(part) + slot / 2 * n_blocks * 8;
  const size_t n_codes = CodeBytes(CodecId::kQ4, PagePart::kValues, head_dim);
  const auto* scales = reinterpret_cast<const F16*>(part + n_codes) + slot;
  float largest[R];
  LargestWeights(weights, count, largest);
  RoundedWeights<R> rounded;
  for (int block = 0; block < n_blocks; ++block) {
    Fetch(ahead + n_codes + size_t{128} * block);
    RoundWeights(scales + block * kPageEntries, count, weights, largest, rounded);
    for (int half = 0; half < 8; half += kWords) {
      const auto accumulate = [&](auto first_plane) HWY_ATTR {
        const int dim = block * kScaleDims + first_plane * 8 + half;
        AccumulateTileQ4<R, kPlanes, first_plane>(words + block * 8 + half, count, n_blocks * 8,
                                                  rounded, factors, out + dim, stride,
                                                  ahead + size_t{1} * dim * count / 2);
      };
      accumulate(std::integral_constant<int, 0>());
      if constexpr (kPlanes == 2) accumulate(std::integral_constant<int, 2>());
    }
  }
}

#endif  // HWY_SCALAR

// The q8 or q4 values of `count` entries from `slot` on to panels
// [ceil(head_dim / panel_width)][kStepEntries][panel_width] f32; q4 stays rotated.
HWY_NOINLINE void ConvertQuantisedValues(CodecId id, const std::byte* HWY_RESTRICT part, int slot,
                                         int count, int head_dim, int panel_width,
                                         float* HWY_RESTRICT panels) {
  const WordTag d32;
  const hn::RebindToFloat<WordTag> d;
  const hn::Rebind<uint16_t, WordTag> d16;
  const bool q8 = id == CodecId::kQ8;
  const size_t n_codes = CodeBytes(id, PagePart::kValues, head_dim);
  const auto* scales = reinterpret_cast<const F16*>(part + n_codes) + slot;
  const int n_blocks = ScaleCount(head_dim);
  // Vectors of entries `entry` and the one behind it, which may be in nobody's use, but is there.
  const auto store = [&](int entry, int dim, auto first, auto second) {
    const F16* of_entry = scales + dim / kScaleDims * kPageEntries + entry;
    float* HWY_RESTRICT to =
        panels + (dim / panel_width * kStepEntries + entry) * panel_width + dim % panel_width;
    const hn::CappedTag<float, 1> d1;
    const auto scale = [&](int i) { return hn::Set(d, hn::GetLane(LoadScales(d1, of_entry + i))); };
    hn::Store(hn::Mul(scale(0), hn::ConvertTo(d, first)), d, to);
    hn::Store(hn::Mul(scale(1), hn::ConvertTo(d, second)), d, to + panel_width);
  };
  for (int entry = 0; entry < count; entry += 2) {
    const int pair = (slot + entry) / 2;
    if (q8) {
      const auto* codes = reinterpret_cast<const uint16_t*>(part) + pair * head_dim;
      for (int i = 0; i < head_dim; i += kWords) {
        const auto both = hn::PromoteTo(d32, hn::LoadU(d16, codes + i));
        store(entry, i, hn::ShiftRight<24>(hn::ShiftLeft<24>(both)),
              hn::ShiftRight<24>(hn::ShiftLeft<16>(both)));
      }
    } else {
      const auto* words = reinterpret_cast<const int32_t*>(part) + pair * n_blocks * 8;
      const auto low_bits = hn::Set(d32, 0xf);
      const auto zero = hn::Set(d32, kQ4Zero);
      for (int i = 0; i < n_blocks * 8; i += kWords) {
        auto rest = hn::Load(d32, words + i);
        for (int plane = 0; plane < 4; ++plane) {
          const int dim = i / 8 * kScaleDims + plane * 8 + i % 8;
          store(entry, dim, hn::Sub(hn::And(rest, low_bits), zero),
                hn::Sub(hn::And(hn::ShiftRight<16>(rest), low_bits), zero));
          rest = hn::ShiftRight<4>(rest);
        }
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#endif  // include guard, per level
