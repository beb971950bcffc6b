// Scores of many queries, bound by arithmetic: keys converted to f32 once, a register-blocked
// matrix product. Included once per SIMD level.
#if defined(PITH_ATTENTION_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PITH_ATTENTION_TILE_INL_H_
#undef PITH_ATTENTION_TILE_INL_H_
#else
#define PITH_ATTENTION_TILE_INL_H_
#endif

#include "attention/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {

// A tile is kTileRows rows x a panel of two vectors: 12 accumulators, two vectors of the panel and
// one broadcast of 16 registers, or twice the rows where there are 32.
inline constexpr int kTileRows = kManyRegisters ? 12 : 6;
inline constexpr int kPanel = 2 * kLanes;

// sums[r] = q[r] . keys. q [head_dim][kTileRows], keys [head_dim][kPanel].
HWY_INLINE void DotTile(const float* HWY_RESTRICT q, const float* HWY_RESTRICT keys, int head_dim,
                        hn::Vec<FloatTag> (&sums)[kTileRows][2]) {
  const FloatTag d;
  using V = hn::Vec<FloatTag>;
  PITH_UNROLL for (int r = 0; r < kTileRows; ++r) sums[r][0] = sums[r][1] = hn::Zero(d);
  for (int i = 0; i < head_dim; ++i) {
    const V k0 = hn::Load(d, keys + i * kPanel);
    const V k1 = hn::Load(d, keys + i * kPanel + kLanes);
    PITH_UNROLL for (int r = 0; r < kTileRows; ++r) {
      const V row = hn::Set(d, q[i * kTileRows + r]);
      sums[r][0] = hn::MulAdd(row, k0, sums[r][0]);
      sums[r][1] = hn::MulAdd(row, k1, sums[r][1]);
    }
  }
}

// scores[r][0..kPanel) = q[r] . keys, as DotTile; rows of scores are kStepEntries apart.
HWY_INLINE void ScoreTile(const float* HWY_RESTRICT q, const float* HWY_RESTRICT keys, int head_dim,
                          float* HWY_RESTRICT scores) {
  const FloatTag d;
  hn::Vec<FloatTag> sums[kTileRows][2];
  DotTile(q, keys, head_dim, sums);
  PITH_UNROLL for (int r = 0; r < kTileRows; ++r) {
    hn::Store(sums[r][0], d, scores + r * kStepEntries);
    hn::Store(sums[r][1], d, scores + r * kStepEntries + kLanes);
  }
}

// Keys [blocks][head_dim][32] f16 of up to n entries to panels [n / kPanel][head_dim][kPanel] f32.
HWY_INLINE void ConvertKeys(const F16* HWY_RESTRICT keys, int n, int head_dim,
                            float* HWY_RESTRICT panels) {
  const FloatTag d;
  for (int entry = 0; entry < n; entry += kPanel) {
    const F16* HWY_RESTRICT from =
        keys + entry / kBlockEntries * kBlockEntries * head_dim + entry % kBlockEntries;
    float* HWY_RESTRICT to = panels + entry * head_dim;
    for (int i = 0; i < head_dim; ++i) {
      hn::Store(LoadF16(d, from + i * kBlockEntries), d, to + i * kPanel);
      hn::Store(LoadF16(d, from + i * kBlockEntries + kLanes), d, to + i * kPanel + kLanes);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#endif  // include guard, per level
