// Scores of keys that are integers with scales (cache/quantised_layout.h). Few queries: these are
// rounded to integers too, and what is summed per 32 dimensions is products of bytes, four times as
// many an instruction as of floats. Many queries: keys are converted to f32 once. Included once per
// SIMD level.
//
// With m = max |q| over the head, an element of a query becomes
//   q8: c * s * u, |c| <= 64, where s is an integer up to 4095 that a pair of neighbours shares and
//     u = m / (64 * 4095), so that it errs by at most h = (max |q| of the pair / 64 + u) / 2; with
//     VNNI (256 * a + b) * u, |a| <= 127, -128 <= b <= 127, u = m / (256 * 127 + 127), h = u / 2;
//   q4: c * u, |c| <= 127, u = m / 127, so that it errs by at most h = m / 254.
// A score errs by at most the sum over dimensions of h * |k|. Where keys have a frame, q and k are
// as the rows lie, k without the centre, whose product with the query is added unrounded.
#if defined(PITH_ATTENTION_QUANTISED_KEYS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PITH_ATTENTION_QUANTISED_KEYS_INL_H_
#undef PITH_ATTENTION_QUANTISED_KEYS_INL_H_
#else
#define PITH_ATTENTION_QUANTISED_KEYS_INL_H_
#endif

#include <type_traits>

#include "attention/integer-inl.h"
#include "attention/prefetch-inl.h"
#include "cache/quantised_layout.h"

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {

// A tile of queries as integers; each part is [..][rows], so that one step's broadcasts are
// neighbours. All of it takes at most head_dim floats a row.
struct RoundedQueries {
  int32_t* codes;    // q8: [head_dim/4], four int8 each; q4: [head_dim/2], two int8 each, twice
  int32_t* pairs;    // q8: [head_dim/4], of the two pairs of a step what they are multiples of;
                     // with VNNI the low parts, as codes
  int32_t* offsets;  // [n_scales]: what the zero of the keys adds to a sum, negated
  float* units;      // [1]
  float* shifts;     // [1]: the query's product with the centre of the keys

  static RoundedQueries At(CodecId id, int head_dim, int rows, float* memory) {
    auto* codes = reinterpret_cast<int32_t*>(memory);
    int32_t* pairs = codes + head_dim / (id == CodecId::kQ8 ? 4 : 2) * rows;
    int32_t* offsets = codes + head_dim / 2 * rows;
    float* units = memory + (head_dim / 2 + ScaleCount(head_dim)) * rows;
    return {codes, pairs, offsets, units, units + rows};
  }
};

#if HWY_TARGET != HWY_SCALAR
// The low bytes of four integers, side by side.
HWY_INLINE uint32_t LowBytes(hn::Vec<hn::RebindToSigned<FourTag>> x) {
  const hn::RebindToUnsigned<FourTag> d32;
  alignas(16) uint32_t byte[4];
  hn::Store(hn::And(hn::BitCast(d32, x), hn::Set(d32, 0xff)), d32, byte);
  return byte[0] | byte[1] << 8 | byte[2] << 16 | byte[3] << 24;
}

// q [head_dim] becomes row r of a tile of `rows`.
HWY_NOINLINE void RoundQuery(const RowFormat& keys, const float* HWY_RESTRICT q, int head_dim,
                             int rows, int r, const RoundedQueries& to) {
  const FourTag d;
  const hn::RebindToSigned<FourTag> d32;
  const bool q8 = keys.id == CodecId::kQ8;
  auto max = hn::Zero(d);
  auto poison = hn::Zero(d);  // NaN if anything is not finite, which no integer can say
  auto shift = hn::Zero(d);
  for (int i = 0; i < head_dim; i += 4) {
    const auto x = hn::LoadU(d, q + i);
    max = hn::Max(max, hn::Abs(x));
    poison = hn::MulAdd(x, hn::Zero(d), poison);
    if (keys.centre != nullptr) shift = hn::MulAdd(x, hn::LoadU(d, keys.centre + i), shift);
  }
  to.shifts[r] = hn::GetLane(hn::SumOfLanes(d, shift));
  const float largest = hn::GetLane(hn::MaxOfLanes(d, max));
  const float limit_q8 = kHasVnni ? 256.0f * 127.0f + 127.0f : 64.0f * 4095.0f;
  const float limit = q8 ? limit_q8 : 127.0f;
  to.units[r] = largest / limit + hn::GetLane(hn::SumOfLanes(d, poison));
  const auto inverse = hn::Set(d, largest > 1e-30f ? limit / largest : 0.0f);
  const auto ones = hn::Set(d, 1.0f);
  for (int b = 0; b < ScaleCount(head_dim); ++b) {
    auto sum = hn::Zero(d32);
    for (int i = b * kScaleDims; i < std::min((b + 1) * kScaleDims, head_dim); i += 4) {
      const auto x = hn::Mul(hn::LoadU(d, q + i), inverse);
      if (q8 && kHasVnni) {
        const auto codes = RoundToInt(d, x);
        const auto high = hn::ShiftRight<8>(hn::Add(codes, hn::Set(d32, 128)));
        sum = hn::Add(sum, codes);
        to.codes[i / 4 * rows + r] = static_cast<int32_t>(LowBytes(high));
        to.pairs[i / 4 * rows + r] = static_cast<int32_t>(LowBytes(codes));
        continue;
      }
      auto of_pair = ones;
      if (q8) {
        const auto size = hn::Max(hn::Abs(x), hn::Abs(hn::Shuffle2301(x)));
        // A hair less, so that multiples of 64 stay what they are.
        of_pair = hn::Ceil(hn::Mul(size, hn::Set(d, (1.0f - 1e-6f) / 64)));
        of_pair = hn::Min(hn::Max(of_pair, ones), hn::Set(d, 4095.0f));
      }
      const auto codes = RoundToInt(d, hn::Div(x, of_pair));
      const auto pairs = RoundToInt(d, of_pair);
      sum = hn::Add(sum, hn::Mul(codes, pairs));
      const uint32_t bytes = LowBytes(codes);
      if (q8) {
        alignas(16) int32_t pair[4];
        hn::Store(pairs, d32, pair);
        to.codes[i / 4 * rows + r] = static_cast<int32_t>(bytes);
        to.pairs[i / 4 * rows + r] = pair[0] | pair[2] << 16;
      } else {
        to.codes[i / 2 * rows + r] = static_cast<int32_t>((bytes & 0xffff) * 0x10001u);
        to.codes[(i / 2 + 1) * rows + r] = static_cast<int32_t>((bytes >> 16) * 0x10001u);
      }
    }
    // Vectors may overflow, as sums of what is no number do; the unit says so.
    const auto zero = hn::Set(d32, -(q8 ? kQ8Zero : kQ4Zero));
    to.offsets[b * rows + r] = hn::GetLane(hn::Mul(hn::SumOfLanes(d32, sum), zero));
  }
}

// to (+)= scale of the entry * unit of the query * sum.
template <bool kFirst>
HWY_INLINE void AddScaled(hn::Vec<FloatTag> scale, hn::Vec<hn::RebindToSigned<FloatTag>> sum,
                          float* HWY_RESTRICT to) {
  const FloatTag d;
  const auto sums = hn::ConvertTo(d, sum);
  hn::Store(kFirst ? hn::Mul(scale, sums) : hn::MulAdd(scale, sums, hn::Load(d, to)), d, to);
}

// One block of dimensions, and kVectors vectors of entries, of q8 keys; scores [R][kStepEntries].
template <int R, int kVectors, bool kFirst>
HWY_INLINE void ScoreTileQ8(const int32_t* HWY_RESTRICT row_codes,
                            const int32_t* HWY_RESTRICT row_pairs,
                            const int32_t* HWY_RESTRICT offsets, const uint8_t* HWY_RESTRICT codes,
                            int n_steps, const F16* HWY_RESTRICT scales, float* HWY_RESTRICT scores,
                            const Ahead& ahead) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> d32;
  const hn::Repartition<int16_t, FloatTag> d16;
  const hn::Repartition<uint8_t, FloatTag> d8;
  const hn::Repartition<int8_t, FloatTag> d8s;
  constexpr int kBytes = kVectors * kLanes * 4;
  hn::Vec<decltype(d32)> sums[R][kVectors];
  hn::Vec<decltype(d32)> high_sums[R][kVectors];  // of VNNI
  PITH_UNROLL for (int r = 0; r < R; ++r) {
    const auto offset = hn::Set(d32, offsets[r]);
    PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = offset;
      high_sums[r][v] = hn::Zero(d32);
    }
  }
  for (int step = 0; step < n_steps; step += 2) {
    PITH_UNROLL for (int j = 0; j < 2; ++j) {
      const int i = step + j;
      if (j * kBytes % 128 == 0) Fetch(ahead + size_t{1} * i * kBytes);
      hn::Vec<decltype(d8)> keys[kVectors];
      PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
        keys[v] = hn::Load(d8, codes + (i * kBlockEntries + v * kLanes) * 4);
      }
      PITH_UNROLL for (int r = 0; r < R; ++r) {
        const auto row = hn::BitCast(d8s, hn::Set(d32, row_codes[i * R + r]));
        const auto pair = hn::BitCast(d16, hn::Set(d32, row_pairs[i * R + r]));
        PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
          if constexpr (kHasVnni) {
            AddQuads(high_sums[r][v], keys[v], row);
            AddQuads(sums[r][v], keys[v], hn::BitCast(d8s, pair));
          } else {
            Accumulate(sums[r][v], MulPairs(d32, MulPairsU8(d16, keys[v], row), pair));
          }
        }
      }
    }
  }
  PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
    const auto scale = LoadScales(d, scales + v * kLanes);
    PITH_UNROLL for (int r = 0; r < R; ++r) {
      const auto sum =
          kHasVnni ? hn::Add(sums[r][v], hn::ShiftLeft<8>(high_sums[r][v])) : sums[r][v];
      AddScaled<kFirst>(scale, sum, scores + r * kStepEntries + v * kLanes);
    }
  }
}

// The same of q4 keys. A lane of 16 bits is an entry's sum over 32 dimensions: it may wrap, but the
// codes less kQ4Zero give at most 32 * 127 * 8.
template <int R, int kVectors, bool kFirst>
HWY_INLINE void ScoreTileQ4(const int32_t* HWY_RESTRICT row_codes,
                            const int32_t* HWY_RESTRICT offsets, const uint8_t* HWY_RESTRICT codes,
                            int n_steps, const F16* HWY_RESTRICT scales, float* HWY_RESTRICT scores,
                            const Ahead& ahead) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> d32;
  const hn::Repartition<int16_t, FloatTag> d16;
  const hn::Half<decltype(d16)> d_half;
  const hn::Repartition<uint8_t, FloatTag> d8;
  const hn::Repartition<int8_t, FloatTag> d8s;
  constexpr int kEntries = 2 * kLanes;  // of a vector
  constexpr int kBytes = kVectors * kEntries * 2;
  const auto low_bits = hn::Set(d8, 0xf);
  hn::Vec<decltype(d16)> sums[R][kVectors];
  PITH_UNROLL for (int r = 0; r < R; ++r) {
    const auto offset = hn::Set(d16, static_cast<int16_t>(offsets[r]));
    PITH_UNROLL for (int v = 0; v < kVectors; ++v) sums[r][v] = offset;
  }
  for (int step = 0; step < n_steps; step += 2) {
    PITH_UNROLL for (int j = 0; j < 2; ++j) {
      const int i = step + j;
      if (j * kBytes % 128 == 0) Fetch(ahead + size_t{1} * i * kBytes);
      hn::Vec<decltype(d8)> low[kVectors], high[kVectors];
      PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
        const auto both = hn::Load(d8, codes + (i * kBlockEntries + v * kEntries) * 2);
        low[v] = hn::And(both, low_bits);
        high[v] = hn::And(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, both))), low_bits);
      }
      PITH_UNROLL for (int r = 0; r < R; ++r) {
        const auto of_low = hn::BitCast(d8s, hn::Set(d32, row_codes[2 * i * R + r]));
        const auto of_high = hn::BitCast(d8s, hn::Set(d32, row_codes[(2 * i + 1) * R + r]));
        PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
          Accumulate(sums[r][v], MulPairsU8(d16, low[v], of_low));
          Accumulate(sums[r][v], MulPairsU8(d16, high[v], of_high));
        }
      }
    }
  }
  PITH_UNROLL for (int v = 0; v < kVectors; ++v) {
    const auto scale0 = LoadScales(d, scales + v * kEntries);
    const auto scale1 = LoadScales(d, scales + v * kEntries + kLanes);
    PITH_UNROLL for (int r = 0; r < R; ++r) {
      float* HWY_RESTRICT to = scores + r * kStepEntries + v * kEntries;
      AddScaled<kFirst>(scale0, hn::PromoteTo(d32, hn::LowerHalf(d_half, sums[r][v])), to);
      AddScaled<kFirst>(scale1, hn::PromoteTo(d32, hn::UpperHalf(d_half, sums[r][v])), to + kLanes);
    }
  }
}

// Scores of R rows against one block of keys; scores [R][kStepEntries].
template <CodecId kId, int R>
HWY_NOINLINE void ScoreQuantised(const RoundedQueries& q, const std::byte* HWY_RESTRICT block,
                                 int head_dim, float* HWY_RESTRICT scores, const Ahead& ahead) {
  constexpr bool kQ8 = kId == CodecId::kQ8;
  constexpr int kEntries = kQ8 ? kLanes : 2 * kLanes;  // of a vector
  constexpr int kEntryBytes = kQ8 ? 4 : 2;             // of four dimensions
  constexpr int kVectors = std::min(kIntegerVectors<R>, kBlockEntries / kEntries);
  constexpr int kWidth = kVectors * kEntries;
  const int n_blocks = ScaleCount(head_dim);
  const size_t n_codes = CodeBytes(kId, PagePart::kKeys, head_dim);
  const auto* codes = reinterpret_cast<const uint8_t*>(block);
  const auto* scales = reinterpret_cast<const F16*>(block + n_codes);
  for (int b = 0; b < n_blocks; ++b) Fetch(ahead + n_codes + size_t{2} * b * kBlockEntries);
  for (int first = 0; first < kBlockEntries; first += kWidth) {
    const Ahead of_pass = ahead + n_codes / kBlockEntries * first;
    const auto score = [&](auto is_first, int b) HWY_ATTR {
      const int step = b * kScaleDims / 4;
      const int n_steps = std::min(kScaleDims, head_dim - b * kScaleDims) / 4;
      const uint8_t* of_step = codes + (step * kBlockEntries + first) * kEntryBytes;
      const F16* of_entry = scales + b * kBlockEntries + first;
      const Ahead of_block = of_pass + size_t{1} * step * kWidth * kEntryBytes;
      if constexpr (kQ8) {
        ScoreTileQ8<R, kVectors, is_first>(q.codes + step * R, q.pairs + step * R,
                                           q.offsets + b * R, of_step, n_steps, of_entry,
                                           scores + first, of_block);
      } else {
        ScoreTileQ4<R, kVectors, is_first>(q.codes + 2 * step * R, q.offsets + b * R, of_step,
                                           n_steps, of_entry, scores + first, of_block);
      }
    };
    score(std::true_type(), 0);
    for (int b = 1; b < n_blocks; ++b) score(std::false_type(), b);
  }
  const FloatTag d;
  PITH_UNROLL for (int r = 0; r < R; ++r) {
    const auto unit = hn::Set(d, q.units[r]);
    const auto shift = hn::Set(d, q.shifts[r]);
    float* HWY_RESTRICT of_row = scores + r * kStepEntries;
    PITH_UNROLL for (int i = 0; i < kBlockEntries; i += kLanes) {
      hn::Store(hn::MulAdd(unit, hn::Load(d, of_row + i), shift), d, of_row + i);
    }
  }
}

#endif  // HWY_SCALAR

// Blocks of q8 or q4 keys of up to n entries to panels [n / kPanel][head_dim][kPanel] f32; q4 stays
// rotated.
HWY_NOINLINE void ConvertQuantisedKeys(const RowFormat& keys, const std::byte* HWY_RESTRICT blocks,
                                       int n, int head_dim, int panel_width,
                                       float* HWY_RESTRICT panels) {
  static constexpr float kNone[kMaxHeadDim] = {};
  const CodecId id = keys.id;
  const float* centre = keys.centre != nullptr ? keys.centre : kNone;
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
    const int bytes = id == CodecId::kQ8 ? 4 : 2;  // of an entry and four dimensions
    const auto zero = hn::Set(d32, id == CodecId::kQ8 ? kQ8Zero : kQ4Zero);
    const auto mask = hn::Set(d32, id == CodecId::kQ8 ? 0xff : 0xf);
    const auto* codes = reinterpret_cast<const uint8_t*>(block) + lane * bytes;
    for (int i = 0; i < head_dim; i += 4) {
      const auto scale = LoadScales(d, scales + i / kScaleDims * kBlockEntries);
      const uint8_t* HWY_RESTRICT of_step = codes + i / 4 * kBlockEntries * bytes;
      const auto store = [&](int j, auto code) HWY_ATTR {
        const auto x = hn::ConvertTo(d, hn::Sub(hn::And(code, mask), zero));
        hn::Store(hn::MulAdd(scale, x, hn::Set(d, centre[i + j])), d, to + (i + j) * panel_width);
      };
      if (id == CodecId::kQ8) {
        const auto four = hn::LoadU(d32, reinterpret_cast<const int32_t*>(of_step));
        store(0, four);
        store(1, hn::ShiftRight<8>(four));
        store(2, hn::ShiftRight<16>(four));
        store(3, hn::ShiftRight<24>(four));
      } else {
        const auto four =
            hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(of_step)));
        store(0, four);
        store(1, hn::ShiftRight<8>(four));
        store(2, hn::ShiftRight<4>(four));
        store(3, hn::ShiftRight<12>(four));
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#endif  // include guard, per level
