// Scores of keys that are integers with scales (cache/quantised_layout.h). Few queries: these are
// rounded to integers too, and what is summed per 32 dimensions is products of integers, twice or
// four times as many an instruction as of floats. Many queries: keys are converted to f32 once.
// Included once per SIMD level.
//
// Queries are rounded to 15 bits and a sign for q8 and to 7 and a sign for q4, by a scale of their
// own per 32 dimensions, so an element of query q errs by at most h = max |q| / 65534 or
// max |q| / 254 over its 32 dimensions, and a score by at most the sum over blocks of
// h * sum |k|, and by less than sqrt(head_dim) * max h * |k|.
#if defined(PITH_ATTENTION_QUANTISED_KEYS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PITH_ATTENTION_QUANTISED_KEYS_INL_H_
#undef PITH_ATTENTION_QUANTISED_KEYS_INL_H_
#else
#define PITH_ATTENTION_QUANTISED_KEYS_INL_H_
#endif

#include <cmath>

#include "attention/integer-inl.h"
#include "attention/prefetch-inl.h"
#include "cache/quantised_layout.h"

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {

// A tile of queries as integers; each part is [..][rows], so that one step's broadcasts are
// neighbours. All of it takes less than head_dim floats a row.
struct RoundedQueries {
  int32_t* codes;    // q8: [head_dim/2], two int16 each; q4: [head_dim/4], four int8
  int32_t* offsets;  // q4: [n_scales], two int16: what kQ4Zero adds to a lane of a block, negated
  float* scales;     // [n_scales]

  static RoundedQueries At(CodecId id, int head_dim, int rows, float* memory) {
    const int n_codes = (id == CodecId::kQ8 ? head_dim / 2 : head_dim / 4) * rows;
    auto* codes = reinterpret_cast<int32_t*>(memory);
    const int n_scales = ScaleCount(head_dim) * rows;
    return {codes, codes + n_codes, memory + n_codes + n_scales};
  }
};

// q [head_dim] becomes row r of a tile of `rows`.
HWY_INLINE void RoundQuery(CodecId id, const float* HWY_RESTRICT q, int head_dim, int rows, int r,
                           const RoundedQueries& to) {
  const EightTag d;
  const hn::RebindToSigned<EightTag> d32;
  constexpr int kWidth = static_cast<int>(hn::MaxLanes(EightTag()));
  const bool q8 = id == CodecId::kQ8;
  const float limit = q8 ? 32767.0f : 127.0f;
  alignas(kPageAlignment) int32_t codes[kMaxHeadDim];
  for (int b = 0; b < ScaleCount(head_dim); ++b) {
    const int begin = b * kScaleDims;
    const int end = std::min(begin + kScaleDims, head_dim);
    auto max = hn::Zero(d);
    auto poison = hn::Zero(d);  // NaN if anything is not finite, which no integer can say
    for (int i = begin; i < end; i += kWidth) {
      const auto x = hn::LoadU(d, q + i);
      max = hn::Max(max, hn::Abs(x));
      poison = hn::MulAdd(x, hn::Zero(d), poison);
    }
    const float largest = hn::GetLane(hn::MaxOfLanes(d, max));
    to.scales[b * rows + r] = largest / limit + hn::GetLane(hn::SumOfLanes(d, poison));
    const auto inverse = hn::Set(d, largest > 1e-30f ? limit / largest : 0.0f);
    for (int i = begin; i < end; i += kWidth) {
      hn::Store(hn::NearestInt(hn::Mul(hn::LoadU(d, q + i), inverse)), d32, codes + i);
    }
    if (q8) continue;
    int sums[2] = {0, 0};
    for (int i = begin; i < end; ++i) sums[i % 4 / 2] += codes[i];
    to.offsets[b * rows + r] =
        (-kQ4Zero * sums[0] & 0xffff) | static_cast<int32_t>(-kQ4Zero * sums[1] * 0x10000u);
  }
  for (int i = 0; q8 && i < head_dim; i += 2) {
    to.codes[i / 2 * rows + r] = (codes[i] & 0xffff) | codes[i + 1] * 0x10000;
  }
  for (int i = 0; !q8 && i < head_dim; i += 4) {
    uint32_t four = 0;
    for (int j = 3; j >= 0; --j) four = four << 8 | (codes[i + j] & 0xff);
    to.codes[i / 4 * rows + r] = static_cast<int32_t>(four);
  }
}

#if HWY_TARGET != HWY_SCALAR
template <int R>
inline constexpr int kKeyVectors = std::min(kIntegerVectors<R>, kBlockEntries / kLanes);

// scores[r] (+)= scale of the entry * scale of the query * sum, for block b of dimensions.
template <int R, int kVectors>
HWY_INLINE void AddScaled(const hn::Vec<hn::RebindToSigned<FloatTag>> (&sums)[R][kVectors],
                          const F16* HWY_RESTRICT key_scales,
                          const float* HWY_RESTRICT query_scales, bool first,
                          float* HWY_RESTRICT scores) {
  const FloatTag d;
  PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
    const auto scale = LoadScales(d, key_scales + v * kLanes);
    PITH_UNROLL for (int r = 0; r < R; ++r) {
      float* HWY_RESTRICT to = scores + r * kStepEntries + v * kLanes;
      const auto both = hn::Mul(scale, hn::Set(d, query_scales[r]));
      const auto sum = hn::ConvertTo(d, sums[r][v]);
      hn::Store(first ? hn::Mul(both, sum) : hn::MulAdd(both, sum, hn::Load(d, to)), d, to);
    }
  }
}

// Scores of R rows against one block of q8 keys; scores [R][kStepEntries].
template <int R>
HWY_NOINLINE void ScoreBlockQ8(const RoundedQueries& q, const std::byte* HWY_RESTRICT block,
                               int head_dim, float* HWY_RESTRICT scores, const Ahead& ahead) {
  const hn::RebindToSigned<FloatTag> d32;
  const hn::Repartition<int16_t, FloatTag> d16;
  const hn::Rebind<int8_t, decltype(d16)> d8;
  constexpr int kVectors = kKeyVectors<R>;
  constexpr int kWidth = kVectors * kLanes;
  const auto* codes = reinterpret_cast<const int8_t*>(block);
  const auto* scales = reinterpret_cast<const F16*>(block + size_t{kBlockEntries} * head_dim);
  for (int first = 0; first < kBlockEntries; first += kWidth) {
    const Ahead of_pass = ahead + size_t{1} * first * head_dim;
    for (int b = 0; b < ScaleCount(head_dim); ++b) {
      hn::Vec<decltype(d32)> sums[R][kVectors];
      PITH_UNROLL for (int r = 0; r < R; ++r) {
        PITH_UNROLL for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(d32);
      }
      const int end = std::min((b + 1) * kScaleDims, head_dim) / 2;
      for (int group = b * kScaleDims / 2; group < end; group += 4) {
        PITH_UNROLL for (int j = 0; j < 4; ++j) {
          const int i = group + j;
          if (j * kWidth * 2 % 128 == 0) Fetch(of_pass + size_t{1} * i * kWidth * 2);
          hn::Vec<decltype(d16)> rows[R];
          PITH_UNROLL for (int r = 0; r < R; ++r) {
            rows[r] = hn::BitCast(d16, hn::Set(d32, q.codes[i * R + r]));
          }
          PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
            const auto keys = hn::PromoteTo(
                d16, hn::LoadU(d8, codes + (i * kBlockEntries + first + v * kLanes) * 2));
            PITH_UNROLL for (int r = 0; r < R; ++r) {
              Accumulate(sums[r][v], MulPairs(d32, rows[r], keys));
            }
          }
        }
      }
      if (first == 0) Fetch(ahead + size_t{kBlockEntries} * (head_dim + 2 * b));
      AddScaled<R, kVectors>(sums, scales + b * kBlockEntries + first, q.scales + b * R, b == 0,
                             scores + first);
    }
  }
}

// The same for q4 keys. A lane of 16 bits sums 16 products of at most 15 * 127.
template <int R>
HWY_NOINLINE void ScoreBlockQ4(const RoundedQueries& q, const std::byte* HWY_RESTRICT block,
                               int head_dim, float* HWY_RESTRICT scores, const Ahead& ahead) {
  const hn::RebindToSigned<FloatTag> d32;
  const hn::Repartition<int16_t, FloatTag> d16;
  const hn::Repartition<uint8_t, FloatTag> d8;
  const hn::Repartition<int8_t, FloatTag> d8s;
  const auto low_bits = hn::Set(d8, 0xf);
  const auto ones = hn::Set(d16, 1);
  constexpr int kVectors = kKeyVectors<R>;
  constexpr int kWidth = kVectors * kLanes;
  const auto* codes = reinterpret_cast<const uint8_t*>(block);
  const auto* scales = reinterpret_cast<const F16*>(block + size_t{kBlockEntries} * head_dim / 2);
  for (int first = 0; first < kBlockEntries; first += kWidth) {
    const Ahead of_pass = ahead + size_t{1} * first * head_dim / 2;
    for (int b = 0; b < ScaleCount(head_dim); ++b) {
      hn::Vec<decltype(d16)> pairs[R][kVectors];
      PITH_UNROLL for (int r = 0; r < R; ++r) {
        const auto offset = hn::BitCast(d16, hn::Set(d32, q.offsets[b * R + r]));
        PITH_UNROLL for (int v = 0; v < kVectors; ++v) pairs[r][v] = offset;
      }
      const int end = std::min((b + 1) * kScaleDims, head_dim) / 8;
      for (int i = b * kScaleDims / 8; i < end; ++i) {
        if (i * kWidth * 4 % 128 == 0) Fetch(of_pass + size_t{1} * i * kWidth * 4);
        PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
          const auto both = hn::Load(d8, codes + (i * kBlockEntries + first + v * kLanes) * 4);
          const auto low = hn::And(both, low_bits);
          const auto high =
              hn::And(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, both))), low_bits);
          PITH_UNROLL for (int r = 0; r < R; ++r) {
            const int32_t* HWY_RESTRICT row = q.codes + 2 * i * R + r;
            const auto of_low = hn::BitCast(d8s, hn::Set(d32, row[0]));
            const auto of_high = hn::BitCast(d8s, hn::Set(d32, row[R]));
            Accumulate(pairs[r][v], MulPairsU8(d16, low, of_low));
            Accumulate(pairs[r][v], MulPairsU8(d16, high, of_high));
          }
        }
      }
      hn::Vec<decltype(d32)> sums[R][kVectors];
      PITH_UNROLL for (int r = 0; r < R; ++r) {
        PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
          sums[r][v] = MulPairs(d32, pairs[r][v], ones);
        }
      }
      if (first == 0) Fetch(ahead + size_t{kBlockEntries} * (head_dim / 2 + 2 * b));
      AddScaled<R, kVectors>(sums, scales + b * kBlockEntries + first, q.scales + b * R, b == 0,
                             scores + first);
    }
  }
}

#endif  // HWY_SCALAR

// Blocks of q8 or q4 keys of up to n entries to panels [n / kPanel][head_dim][kPanel] f32; q4 stays
// rotated.
HWY_NOINLINE void ConvertQuantisedKeys(CodecId id, const std::byte* HWY_RESTRICT blocks, int n,
                                       int head_dim, int panel_width, float* HWY_RESTRICT panels) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> d32;
  const hn::Rebind<uint16_t, FloatTag> d16;
  const size_t n_codes = CodeBytes(id, PagePart::kKeys, head_dim);
  for (int entry = 0; entry < n; entry += kLanes) {
    const std::byte* block = blocks + entry / kBlockEntries * KeyBlockBytes(id, head_dim);
    const int lane = entry % kBlockEntries;
    const auto* scales = reinterpret_cast<const F16*>(block + n_codes) + lane;
    float* HWY_RESTRICT to =
        panels + entry / panel_width * panel_width * head_dim + entry % panel_width;
    if (id == CodecId::kQ8) {
      const auto* codes = reinterpret_cast<const uint16_t*>(block) + lane;
      for (int i = 0; i < head_dim; i += 2) {
        const auto scale = LoadScales(d, scales + i / kScaleDims * kBlockEntries);
        const auto pair = hn::PromoteTo(d32, hn::LoadU(d16, codes + i / 2 * kBlockEntries));
        const auto even = hn::ShiftRight<24>(hn::ShiftLeft<24>(pair));
        const auto odd = hn::ShiftRight<24>(hn::ShiftLeft<16>(pair));
        hn::Store(hn::Mul(scale, hn::ConvertTo(d, even)), d, to + i * panel_width);
        hn::Store(hn::Mul(scale, hn::ConvertTo(d, odd)), d, to + (i + 1) * panel_width);
      }
    } else {
      const auto* codes = reinterpret_cast<const int32_t*>(block) + lane;
      const auto low_bits = hn::Set(d32, 0xf);
      const auto zero = hn::Set(d32, kQ4Zero);
      for (int i = 0; i < head_dim; i += 8) {
        const auto scale = LoadScales(d, scales + i / kScaleDims * kBlockEntries);
        auto rest = hn::LoadU(d32, codes + i / 8 * kBlockEntries);
        for (int j = 0; j < 4; ++j) {
          const auto low = hn::Sub(hn::And(rest, low_bits), zero);
          const auto high = hn::Sub(hn::And(hn::ShiftRight<4>(rest), low_bits), zero);
          hn::Store(hn::Mul(scale, hn::ConvertTo(d, low)), d, to + (i + j) * panel_width);
          hn::Store(hn::Mul(scale, hn::ConvertTo(d, high)), d, to + (i + 4 + j) * panel_width);
          rest = hn::ShiftRight<8>(rest);
        }
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#endif  // include guard, per level
