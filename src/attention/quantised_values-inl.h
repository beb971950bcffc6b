// Weighted sums of values that are integers with scales (cache/quantised_layout.h). Few queries:
// the scale of an entry joins its weight, the product is rounded to an integer, and what is summed
// over the entries of a page is products of integers, two entries an instruction. Many queries:
// values are converted to f32 once. Included once per SIMD level.
//
// For the entries of a page let W be the largest weight, S the sum of weights, s the largest scale.
//   q8: products are rounded to multiples of u = W s / 32767, so that one errs by at most u / 2;
//   q4: to multiples of u = s * max(W / 126, S / 4032), downwards after adding a number of 0..1
//     times u that is the entry's own, so that one errs by less than u, and many of them add up to
//     what they should.
// An output therefore errs, before the division by the sum of weights, by at most the sum of that
// over the entries times the size of their codes.
#if defined(PITH_ATTENTION_QUANTISED_VALUES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PITH_ATTENTION_QUANTISED_VALUES_INL_H_
#undef PITH_ATTENTION_QUANTISED_VALUES_INL_H_
#else
#define PITH_ATTENTION_QUANTISED_VALUES_INL_H_
#endif

#include "attention/integer-inl.h"
#include "attention/prefetch-inl.h"
#include "cache/quantised_layout.h"

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR
// Entries are taken this many at a time; weights behind the last entry are zero.
inline constexpr int kEntryStep = 16;
inline constexpr int kMaxScales = kMaxHeadDim / kScaleDims;

// Weights of R rows times the scales of one block of dimensions: codes * units, a word for a pair
// of entries: of two int16, or of two int8 twice.
template <int R>
struct RoundedWeights {
  alignas(kPageAlignment) int32_t pairs[R][kStepEntries / 2];
  float units[R];
  int32_t sums[R];  // of the codes of q4

  template <class D>
  HWY_INLINE hn::Vec<D> Pair(D d, int r, int pair) const {
    return hn::BitCast(d, hn::Set(hn::Repartition<int32_t, D>(), pairs[r][pair]));
  }
};

// What the weights of a page are multiplied with before they are rounded, and one by it.
template <int R>
HWY_INLINE void WeightFactors(CodecId id, const float* HWY_RESTRICT weights, int n,
                              const float* HWY_RESTRICT sums, float (&factors)[R],
                              float (&units)[R]) {
  const FloatTag d;
  for (int r = 0; r < R; ++r) {
    auto max = hn::Zero(d);
    for (int i = 0; i < n; i += kLanes) {
      max = hn::Max(max, hn::Load(d, weights + r * kStepEntries + i));
    }
    const float largest = hn::GetLane(hn::MaxOfLanes(d, max));
    const float unit = id == CodecId::kQ8
                           ? largest * (1.0f / 32767)
                           : std::max(largest * (1.0f / 126), sums[r] * (1.0f / 4032));
    const float poison = sums[r] * 0.0f;
    factors[r] = (largest > 1e-30f ? 1.0f / unit : 0.0f) + poison;
    units[r] = (largest > 1e-30f ? unit : 0.0f) + poison;
  }
}

// Scales of n entries of one block, by the largest of them, which is returned: NaN if any is NaN.
// Zeros up to a multiple of kEntryStep.
HWY_INLINE float NormaliseScales(const F16* HWY_RESTRICT scales, int n, float* HWY_RESTRICT to) {
  const EightTag d;
  const hn::Repartition<int16_t, EightTag> d16;
  const int n_padded = (n + kEntryStep - 1) / kEntryStep * kEntryStep;
  alignas(kPageAlignment) F16 known[kStepEntries];
  if (n < n_padded) {
    std::copy_n(scales, n, known);
    std::fill_n(known + n, n_padded - n, F16{0});
    scales = known;
  }
  // Sizes of f16 are ordered as their bits are, and NaN's are the largest.
  auto max = hn::Zero(d16);
  for (int i = 0; i < n_padded; i += 2 * kEights) {
    const auto bits = hn::LoadU(d16, reinterpret_cast<const int16_t*>(scales + i));
    max = hn::Max(max, hn::And(bits, hn::Set(d16, 0x7fff)));
  }
  const auto bits = static_cast<F16>(hn::GetLane(hn::MaxOfLanes(d16, max)));
  const float largest = hn::GetLane(LoadScales(hn::CappedTag<float, 1>(), &bits));
  const auto inverse = hn::Set(d, largest > 0 ? 1.0f / largest : 0.0f);
  for (int i = 0; i < n_padded; i += kEights) {
    hn::Store(hn::Mul(LoadF16(d, scales + i), inverse), d, to + i);
  }
  return largest;
}

// weights [R][kStepEntries], scales as NormaliseScales gives them.
template <int R>
HWY_INLINE void RoundToWords(const float* HWY_RESTRICT scales, int n,
                             const float* HWY_RESTRICT weights, const float (&factors)[R],
                             RoundedWeights<R>& rounded) {
  const EightTag d;
  const hn::RebindToSigned<EightTag> d32;
  const hn::Repartition<int16_t, EightTag> d16;
  const auto magic = hn::Set(d, 12582912.0f);  // 1.5 * 2^23: the lowest bits are the integer
  for (int i = 0; i < n; i += kEntryStep) {
    for (int j = i; j < i + 8; j += kEights) {
      const auto scale0 = hn::Load(d, scales + j);
      const auto scale1 = hn::Load(d, scales + j + 8);
      PITH_UNROLL for (int r = 0; r < R; ++r) {
        const float* HWY_RESTRICT from = weights + r * kStepEntries + j;
        const auto factor = hn::Set(d, factors[r]);
        const auto x0 = hn::Mul(factor, hn::Load(d, from));
        const auto x1 = hn::Mul(factor, hn::Load(d, from + 8));
        const auto code0 = hn::BitCast(d16, hn::MulAdd(x0, scale0, magic));
        const auto code1 = hn::BitCast(d32, hn::MulAdd(x1, scale1, magic));
        const auto both = hn::OddEven(hn::BitCast(d16, hn::ShiftLeft<16>(code1)), code0);
        hn::Store(hn::BitCast(d32, both), d32, rounded.pairs[r] + i / 2 + j % 8);
      }
    }
  }
}

// What is added to each entry of a page before rounding downwards: multiples of 1/64, evenly spread
// over any eight neighbours (van der Corput).
HWY_INLINE float Dither(int entry) {
  float x = 0.5f / kPageEntries;
  for (int bit = 0; bit < 6; ++bit) x += (entry >> bit & 1) * 0.5f / (1 << bit);
  return x;
}

// As RoundToWords, of int8.
template <int R>
HWY_INLINE void RoundToBytes(const float* HWY_RESTRICT scales, int n,
                             const float* HWY_RESTRICT weights, const float (&factors)[R],
                             RoundedWeights<R>& rounded) {
  const EightTag d;
  const hn::RebindToSigned<EightTag> d32;
  const hn::Repartition<int16_t, EightTag> d16;
  const hn::Repartition<uint8_t, EightTag> d8;
  const hn::Repartition<int8_t, EightTag> d8s;
  // 1.5 * 2^15 leaves eight bits behind the point: the second byte is the integer.
  struct Addends {
    alignas(kPageAlignment) float of[kStepEntries];
    Addends() {
      for (int i = 0; i < kStepEntries; ++i) of[i] = 49152.0f + Dither(i);
    }
  };
  static const Addends addends;
  alignas(16) static constexpr uint8_t kTake[2][16] = {
      {1, 128, 1, 128, 5, 128, 5, 128, 9, 128, 9, 128, 13, 128, 13, 128},
      {128, 1, 128, 1, 128, 5, 128, 5, 128, 9, 128, 9, 128, 13, 128, 13}};
  const auto first = hn::LoadDup128(d8, kTake[0]);
  const auto second = hn::LoadDup128(d8, kTake[1]);
  const auto ones = hn::Set(d8, 1);
  const auto ones16 = hn::Set(d16, 1);
  hn::Vec<decltype(d16)> sums[R];
  PITH_UNROLL for (int r = 0; r < R; ++r) sums[r] = hn::Zero(d16);
  for (int i = 0; i < n; i += kEntryStep) {
    for (int j = i; j < i + 8; j += kEights) {
      const auto scale0 = hn::Load(d, scales + j);
      const auto scale1 = hn::Load(d, scales + j + 8);
      PITH_UNROLL for (int r = 0; r < R; ++r) {
        const float* HWY_RESTRICT from = weights + r * kStepEntries + j;
        const auto factor = hn::Set(d, factors[r]);
        const auto x0 = hn::Mul(factor, hn::Load(d, from));
        const auto x1 = hn::Mul(factor, hn::Load(d, from + 8));
        const auto code0 = hn::BitCast(d8, hn::MulAdd(x0, scale0, hn::Load(d, addends.of + j)));
        const auto code1 = hn::BitCast(d8, hn::MulAdd(x1, scale1, hn::Load(d, addends.of + j + 8)));
        const auto both =
            hn::Or(hn::TableLookupBytesOr0(code0, first), hn::TableLookupBytesOr0(code1, second));
        hn::Store(hn::BitCast(d32, both), d32, rounded.pairs[r] + i / 2 + j % 8);
        sums[r] = hn::Add(sums[r], MulPairsU8(d16, ones, hn::BitCast(d8s, both)));
      }
    }
  }
  PITH_UNROLL for (int r = 0; r < R; ++r) {  // every pair was there twice
    rounded.sums[r] = hn::GetLane(hn::SumOfLanes(d32, MulPairs(d32, sums[r], ones16))) / 2;
  }
}

// Weights of R rows of a page, rounded for each block of dimensions. The largest scales of all
// blocks are looked for first: each search is a chain of its own.
template <CodecId kId, int R>
HWY_INLINE void RoundWeights(const F16* HWY_RESTRICT scales, int n_blocks, int n,
                             const float* HWY_RESTRICT weights, const float* HWY_RESTRICT sums,
                             RoundedWeights<R>* HWY_RESTRICT rounded, const Ahead& of_scales) {
  float factors[R], units[R];
  WeightFactors(kId, weights, n, sums, factors, units);
  alignas(kPageAlignment) float of_entries[kMaxScales][kStepEntries];
  for (int b = 0; b < n_blocks; ++b) {
    Fetch(of_scales + size_t{2} * b * kPageEntries);
    const float largest = NormaliseScales(scales + b * kPageEntries, n, of_entries[b]);
    PITH_UNROLL for (int r = 0; r < R; ++r) rounded[b].units[r] = largest * units[r];
  }
  for (int b = 0; b < n_blocks; ++b) {
    if constexpr (kId == CodecId::kQ8) {
      RoundToWords(of_entries[b], n, weights, factors, rounded[b]);
    } else {
      RoundToBytes(of_entries[b], n, weights, factors, rounded[b]);
    }
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
  constexpr int kPairStep = 4;
  for (int step = 0; step < (n + kEntryStep - 1) / kEntryStep * 8; step += kPairStep) {
    PITH_UNROLL for (int i = 0; i < kPairStep; ++i) {
      const int pair = step + i;
      constexpr int kBytes = kVectors * kWidth * 2;
      if (i * kBytes % 128 == 0) Fetch(ahead + size_t{1} * pair * kBytes);
      hn::Vec<decltype(d16)> rows[R];
      PITH_UNROLL for (int r = 0; r < R; ++r) rows[r] = weights.Pair(d16, r, pair);
      PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
        const auto both =
            hn::PromoteTo(d16, hn::LoadU(d8, values + (pair * head_dim + v * kWidth) * 2));
        PITH_UNROLL for (int r = 0; r < R; ++r) { AddPairs(d32, sums[r][v], rows[r], both); }
      }
    }
  }
  PITH_UNROLL for (int r = 0; r < R; ++r) {
    PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
      AddSum(d, sums[r][v], weights.units[r], factors[r], out + r * stride + v * kWidth);
    }
  }
}

// out[r] = factor[r] * out[r] + sum of weight * value over `count` q8 entries from `slot` on, a
// multiple of kEntryStep. weights [R][kStepEntries], page_sums [R] of them, out
// [R][PaddedDim(head_dim)].
template <int R>
HWY_NOINLINE void AccumulateQ8(const std::byte* HWY_RESTRICT part, int slot, int count,
                               int head_dim, const float* HWY_RESTRICT weights,
                               const float* HWY_RESTRICT page_sums,
                               const float* HWY_RESTRICT factors, float* HWY_RESTRICT out,
                               const Ahead& ahead) {
  constexpr int kVectors = std::min(R <= 2 ? 4 : 2, kScaleDims / kLanes);
  const int stride = PaddedDim(head_dim);
  const auto* codes = reinterpret_cast<const int8_t*>(part) + slot * head_dim;
  const size_t n_codes = CodeBytes(CodecId::kQ8, PagePart::kValues, head_dim);
  const auto* scales = reinterpret_cast<const F16*>(part + n_codes) + slot;
  RoundedWeights<R> of_blocks[kMaxScales];
  RoundWeights<CodecId::kQ8>(scales, ScaleCount(head_dim), count, weights, page_sums, of_blocks,
                             ahead + n_codes);
  for (int begin = 0; begin < head_dim; begin += kScaleDims) {
    const RoundedWeights<R>& rounded = of_blocks[begin / kScaleDims];
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

// As AccumulateQ8, of q4 values; out stays rotated, and its padding gets numbers without meaning.
// A lane of 16 bits is a sum over the page: it may wrap, but the codes less kQ4Zero give at most
// 8 * (4032 + 32), the 32 being what 64 roundings add.
template <int R>
HWY_NOINLINE void AccumulateQ4(const std::byte* HWY_RESTRICT part, int slot, int count,
                               int head_dim, const float* HWY_RESTRICT weights,
                               const float* HWY_RESTRICT page_sums,
                               const float* HWY_RESTRICT factors, float* HWY_RESTRICT out,
                               const Ahead& ahead) {
  const hn::CappedTag<uint8_t, 32> d8;
  const hn::RepartitionToWide<hn::RebindToSigned<decltype(d8)>> d16;
  const hn::RebindToSigned<decltype(d8)> d8s;
  const EightTag d;
  const hn::RebindToSigned<EightTag> d32;
  const hn::Half<decltype(d16)> d_half;
  const auto low_bits = hn::Set(d8, 0xf);
  constexpr int kDims = static_cast<int>(hn::MaxLanes(d16));
  const int stride = PaddedDim(head_dim);
  const int n_blocks = ScaleCount(head_dim);
  const size_t n_codes = CodeBytes(CodecId::kQ4, PagePart::kValues, head_dim);
  const auto* scales = reinterpret_cast<const F16*>(part + n_codes) + slot;
  RoundedWeights<R> of_blocks[kMaxScales];
  RoundWeights<CodecId::kQ4>(scales, n_blocks, count, weights, page_sums, of_blocks,
                             ahead + n_codes);
  const int n_pairs = (count + kEntryStep - 1) / kEntryStep * 8;
  for (int block = 0; block < n_blocks; ++block) {
    const RoundedWeights<R>& rounded = of_blocks[block];
    for (int dim = 0; dim < kScaleDims / 2; dim += kDims) {
      const size_t begin = (size_t{1} * block * kPageEntries / 2 + slot / 2) * 32 + dim * 2;
      const auto* codes = reinterpret_cast<const uint8_t*>(part) + begin;
      const Ahead of_block = ahead + begin;
      hn::Vec<decltype(d16)> sums[R][2];
      PITH_UNROLL for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = hn::Zero(d16);
      for (int step = 0; step < n_pairs; step += 4) {
        Fetch(of_block + size_t{32} * step);
        PITH_UNROLL for (int i = 0; i < 4; ++i) {
          const int pair = step + i;
          const auto both = hn::Load(d8, codes + pair * 32);
          const auto low = hn::And(both, low_bits);
          const auto high =
              hn::And(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, both))), low_bits);
          PITH_UNROLL for (int r = 0; r < R; ++r) {
            const auto row = rounded.Pair(d8s, r, pair);
            Accumulate(sums[r][0], MulPairsU8(d16, low, row));
            Accumulate(sums[r][1], MulPairsU8(d16, high, row));
          }
        }
      }
      PITH_UNROLL for (int r = 0; r < R; ++r) {
        const auto of_zeros = hn::Set(d16, static_cast<int16_t>(kQ4Zero * rounded.sums[r]));
        PITH_UNROLL for (int half = 0; half < 2; ++half) {
          float* HWY_RESTRICT to = out + r * stride + block * kScaleDims + half * 16 + dim;
          const auto sum = hn::Sub(sums[r][half], of_zeros);
          const auto sum0 = hn::PromoteTo(d32, hn::LowerHalf(d_half, sum));
          const auto sum1 = hn::PromoteTo(d32, hn::UpperHalf(d_half, sum));
          AddSum(d, sum0, rounded.units[r], factors[r], to);
          AddSum(d, sum1, rounded.units[r], factors[r], to + kEights);
        }
      }
    }
  }
}

#endif  // HWY_SCALAR

// The q8 or q4 values of `count` entries from `slot` on to panels
// [ceil(head_dim / panel_width)][kStepEntries][panel_width] f32; q4 stays rotated.
HWY_NOINLINE void ConvertQuantisedValues(CodecId id, const std::byte* HWY_RESTRICT part, int slot,
                                         int count, int head_dim, int panel_width,
                                         float* HWY_RESTRICT panels) {
  const EightTag d;
  const hn::RebindToSigned<EightTag> d32;
  const hn::Rebind<uint16_t, EightTag> d16;
  constexpr int kWidth = static_cast<int>(hn::MaxLanes(EightTag()));
  const bool q8 = id == CodecId::kQ8;
  const size_t n_codes = CodeBytes(id, PagePart::kValues, head_dim);
  const auto* scales = reinterpret_cast<const F16*>(part + n_codes) + slot;
  const auto* codes = reinterpret_cast<const uint16_t*>(part);
  // Codes of both entries of a pair, the second of which may be in nobody's use, but is there.
  const auto store = [&](int entry, int dim, auto first, auto second) HWY_ATTR {
    const F16* of_entry = scales + dim / kScaleDims * kPageEntries + entry;
    float* HWY_RESTRICT to =
        panels + (dim / panel_width * kStepEntries + entry) * panel_width + dim % panel_width;
    const hn::CappedTag<float, 1> d1;
    const auto scale = [&](int i) { return hn::Set(d, hn::GetLane(LoadScales(d1, of_entry + i))); };
    hn::Store(hn::Mul(scale(0), hn::ConvertTo(d, first)), d, to);
    hn::Store(hn::Mul(scale(8), hn::ConvertTo(d, second)), d, to + 8 * panel_width);
  };
  for (int entry = 0; entry < count; entry += InPair(entry + 1) == 0 ? 1 : 9) {
    const int pair = PairOf(slot + entry);
    if (q8) {
      for (int i = 0; i < head_dim; i += kWidth) {
        const auto both = hn::PromoteTo(d32, hn::LoadU(d16, codes + pair * head_dim + i));
        store(entry, i, hn::ShiftRight<24>(hn::ShiftLeft<24>(both)),
              hn::ShiftRight<24>(hn::ShiftLeft<16>(both)));
      }
    } else {
      const auto low_bits = hn::Set(d32, 0xf);
      const auto zero = hn::Set(d32, kQ4Zero);
      for (int i = 0; i < ScaleCount(head_dim) * 16; i += kWidth) {
        const int block = i / 16;
        const auto both = hn::PromoteTo(
            d32, hn::LoadU(d16, codes + (block * kPageEntries / 2 + pair) * 16 + i % 16));
        const auto code = [&](auto bits)
                              HWY_ATTR { return hn::Sub(hn::And(bits, low_bits), zero); };
        const int dim = block * kScaleDims + i % 16;
        store(entry, dim, code(both), code(hn::ShiftRight<8>(both)));
        store(entry, dim + 16, code(hn::ShiftRight<4>(both)), code(hn::ShiftRight<12>(both)));
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#endif  // include guard, per level
