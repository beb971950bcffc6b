// Attention of few queries, bound by memory: keys and values are decoded in registers, each
// multiplied with a tile of rows (Flash-Decoding). Included once per SIMD level.
#if defined(PITH_ATTENTION_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PITH_ATTENTION_DECODE_INL_H_
#undef PITH_ATTENTION_DECODE_INL_H_
#else
#define PITH_ATTENTION_DECODE_INL_H_
#endif

#include <type_traits>

#include "attention/codes-inl.h"
#include "attention/prefetch-inl.h"
#include "attention/quantised_keys-inl.h"
#include "attention/quantised_values-inl.h"
#include "attention/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {

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

// Bytes of a block of keys.
HWY_INLINE size_t BlockBytes(const RowFormat& keys, int head_dim) {
  switch (keys.id) {
    case CodecId::kF16:
      return F16KeyBytes(head_dim) / 2;
    case CodecId::kQ8:
    case CodecId::kQ4:
      return KeyBlockBytes(keys.id, head_dim);
    default:
      return PqBlockBytes(keys);
  }
}

// Queries [height][RowDims], as LoadQuery gives them, to what keys are scored with.
HWY_INLINE void PackTile(const RowFormat& keys, const float* HWY_RESTRICT q, int head_dim,
                         int height, float* HWY_RESTRICT packed) {
  switch (keys.id) {
    case CodecId::kF16:
      for (int r = 0; r < height; ++r) {
        for (int d = 0; d < head_dim; ++d) packed[d * height + r] = q[r * head_dim + d];
      }
      return;
    case CodecId::kQ8:
    case CodecId::kQ4:
#if HWY_TARGET != HWY_SCALAR
      for (int r = 0; r < height; ++r) {
        RoundQuery(keys, q + r * head_dim, head_dim, height, r,
                   RoundedQueries::At(keys.id, head_dim, height, packed));
      }
#endif
      return;
    default:
      MakeTables(keys, head_dim, q, height, packed);
  }
}

// Scores of R rows, packed as above, against `count` keys from slot `slot` on.
template <int R>
HWY_NOINLINE void ScoreKeys(const Segment& s, const std::byte* HWY_RESTRICT page, int slot,
                            int count, float* HWY_RESTRICT q, float* HWY_RESTRICT scores,
                            const Ahead& ahead) {
  const RowFormat& keys = s.keys;
  const int dims = RowDims(keys, s.head_dim);
  const size_t block_bytes = BlockBytes(keys, dims);
  int n_blocks = 1;  // of a call
  for (int i = 0; i < count; i += n_blocks * kBlockEntries) {
    const size_t begin = (slot + i) / kBlockEntries * block_bytes;
    const std::byte* block = page + begin;
    if (keys.id == CodecId::kF16) {
      ScoreBlock<R>(q, reinterpret_cast<const F16*>(block), s.head_dim, scores + i, ahead + begin);
    }
#if HWY_TARGET != HWY_SCALAR
    const auto* codes = reinterpret_cast<const uint8_t*>(block);
    const auto rounded = RoundedQueries::At(keys.id, dims, R, q);
    if (keys.id == CodecId::kQ8) {
      ScoreQuantised<CodecId::kQ8, R>(rounded, block, dims, scores + i, ahead + begin);
    } else if (keys.id == CodecId::kQ4) {
      ScoreQuantised<CodecId::kQ4, R>(rounded, block, dims, scores + i, ahead + begin);
    } else if (keys.id == CodecId::kPq8) {
      n_blocks = kPq8Blocks;
      // Where a call takes two blocks and there is one, it is scored twice.
      const size_t second = count > kBlockEntries ? block_bytes : 0;
      ScoreBlockPq8<R>(CodeTables::At(keys, R, q), codes, second, keys.n_subspaces, scores + i,
                       ahead + begin);
    } else if (keys.id == CodecId::kPq4) {
      ScoreBlockPq4<R>(CodeTables::At(keys, R, q), codes, keys.n_subspaces, scores + i,
                       ahead + begin);
    }
#endif
  }
}

// The part of all weights whose values need not be read: an eighth of what rounding a value to its
// code may be off by, which is 2^-8 of the largest of its dimensions for q8 and 2^-4 for q4. Of f16
// all are read: at its rounding few pages could be left out, and what is known only after the
// scores cannot be fetched ahead.
constexpr float IgnoredShare(CodecId values) {
  switch (values) {
    case CodecId::kQ8:
      return 0x1p-11f;
    case CodecId::kQ4:
      return 0x1p-7f;
    default:
      return 0;
  }
}

// Whether the weights of a step of `count` entries, whose sums are step_sums, are at most e * count
// / (entries of the run) of those of each row so far, these included, with e = IgnoredShare. What
// is left out of a run then has at most e of its weights, since sums only grow, but for the factors
// by which both are multiplied, and in all runs together at most e too: an output is off by at most
// e times the largest value. A row whose maximum has moved, or that is no number, needs its step.
template <int R>
HWY_INLINE bool CanSkip(const Segment& s, int row, int count, const float* HWY_RESTRICT step_sums,
                        const float* HWY_RESTRICT factors) {
  const float ignored = IgnoredShare(s.values.id) * static_cast<float>(count);
  if (ignored == 0) return false;
  const auto n_entries = static_cast<float>(s.end - s.begin);
  bool can = true;
  PITH_UNROLL for (int r = 0; r < R; ++r) {
    can &= factors[r] == 1.0f && step_sums[r] * n_entries <= ignored * s.state.sum[row + r];
  }
  return can;
}

#if HWY_TARGET != HWY_SCALAR
// out[r] = factor[r] * out[r] + sum of weight * value over `count` entries of a page from `slot`
// on, a multiple of kEntryStep, whose values are q8 or q4. weights [R][kStepEntries], sums [R] of
// them, out [R][PaddedDim(head_dim)], as the values lie.
template <int R>
HWY_INLINE void AccumulateIntegers(const Segment& s, const std::byte* HWY_RESTRICT page, int slot,
                                   int count, const float* HWY_RESTRICT weights,
                                   const float* HWY_RESTRICT sums,
                                   const float* HWY_RESTRICT factors, float* HWY_RESTRICT out,
                                   const Ahead& ahead) {
  const std::byte* values = page + s.key_bytes;
  if (s.values.id == CodecId::kQ8) {
    AccumulateQ8<R>(values, slot, count, s.head_dim, weights, sums, factors, out, ahead);
  } else {
    AccumulateQ4<R>(values, slot, count, s.head_dim, weights, sums, factors, out, ahead);
  }
}
#endif

// What is read while memory answers: the less of a page is read, the more pages ahead.
inline constexpr size_t kAheadBytes = 8192;

// What is fetched while the first n_read bytes of the page of `step` are computed with. Addresses
// of a later page are translated beforehand, all at once: a fetch waits for its own. Measured on
// Zen 4, this takes a tenth off q8 and q4 with one thread.
HWY_INLINE Ahead AheadOf(const Segment& s, int64_t step, size_t n_read) {
  const auto page_after = [&](int64_t n) {
    return s.pages[std::min(step + n * kPageEntries, s.end - 1) / kPageEntries];
  };
  const size_t half = n_read / 2 / kPageAlignment * kPageAlignment;
  const auto n = static_cast<int64_t>(std::clamp<size_t>(kAheadBytes / n_read, 1, 8));
  const std::byte* later = page_after(n + 3);
  for (size_t at = 0; at < n_read; at += 4096) __builtin_prefetch(later + at, 0, 2);
  return {page_after(n) + half, page_after(n + 1)};
}

// R rows from `row` on against `count` entries from `step` on.
template <int R>
HWY_INLINE void DecodeStep(const Segment& s, int row, int64_t step, int count,
                           float* HWY_RESTRICT q, float* HWY_RESTRICT scores,
                           float* HWY_RESTRICT factors) {
  const std::byte* page = s.pages[step / kPageEntries];
  const auto slot = static_cast<int>(step % kPageEntries);
  const Ahead ahead = AheadOf(s, step, s.page_bytes);
  ScoreKeys<R>(s, page, slot, count, q, scores, ahead);
  float step_sums[R];
  for (int r = 0; r < R; ++r) {
    factors[r] = SoftmaxRow(scores + r * kStepEntries, VisibleInStep(s, row + r, step, count),
                            s.state.max[row + r], s.state.sum[row + r], step_sums[r]);
  }
  if (CanSkip<R>(s, row, count, step_sums, factors)) return;
  float* out = s.state.vectors + size_t{1} * row * PaddedDim(s.head_dim);
  const Ahead of_values = ahead + s.key_bytes;
  if (s.values.id == CodecId::kF16) {
    const auto* values = reinterpret_cast<const F16*>(page + s.key_bytes);
    AccumulateValues<R>(values + size_t{1} * slot * s.head_dim, count, s.head_dim, scores, factors,
                        out, of_values);
    return;
  }
#if HWY_TARGET != HWY_SCALAR
  AccumulateIntegers<R>(s, page, slot, count, scores, step_sums, factors, out, of_values);
#endif
}

// Rows cut into tiles of nearly equal height, at most kDecodeRows, and their packed queries.
struct RowTiles {
  int n_rows;
  int n_tiles;
  size_t tile_floats;
  float* packed;  // tile after tile

  explicit RowTiles(const Segment& s)
      : n_rows(s.n_tokens * s.group),
        n_tiles((n_rows + kDecodeRows - 1) / kDecodeRows),
        tile_floats(TableFloats(s.keys, tallest())),
        packed(s.scratch) {
    if (tile_floats == 0) tile_floats = size_t{1} * tallest() * RowDims(s.keys, s.head_dim);
  }
  int begin(int tile) const { return n_rows * tile / n_tiles; }
  int height(int tile) const { return begin(tile + 1) - begin(tile); }
  int tallest() const { return (n_rows + n_tiles - 1) / n_tiles; }
  float* queries(int tile) const { return packed + tile * tile_floats; }
  // Whether what follows the packed queries in scratch stays free.
  bool fit(const Segment& s) const {
    return s.keys.n_subspaces == 0 || tile_floats * n_tiles <= kTableFloats;
  }
  float* after(const Segment& s) const {
    return packed + kTableFloats + size_t{1} * PaddedRows(n_rows) * s.head_dim;
  }
};

HWY_INLINE void PackTiles(const Segment& s, const RowTiles& tiles) {
  const int dims = RowDims(s.keys, s.head_dim);
  for (int tile = 0; tile < tiles.n_tiles; ++tile) {
    float q[kDecodeRows * kMaxHeadDim];
    for (int r = 0; r < tiles.height(tile); ++r) {
      const int row = tiles.begin(tile) + r;
      LoadQuery(s.q + row / s.group * s.q_stride + row % s.group * s.head_dim, s.head_dim, s.scale,
                s.keys, q + r * dims);
    }
    PackTile(s.keys, q, dims, tiles.height(tile), tiles.queries(tile));
  }
}

// fn(step, count) for the pages of the run.
template <class Fn>
HWY_INLINE void ForEachStep(const Segment& s, const Fn& fn) {
  for (int64_t step = s.begin; step < s.end;) {
    const int64_t next = std::min((step / kPageEntries + 1) * kPageEntries, s.end);
    fn(step, static_cast<int>(next - step));
    step = next;
  }
}

// Whether Decode can take the segment: one lane cannot hold a pair of integers.
HWY_INLINE bool CanDecode(const Segment& s) {
  const bool f16 = s.keys.id == CodecId::kF16 && s.values.id == CodecId::kF16;
  return (f16 || HWY_TARGET != HWY_SCALAR) && RowTiles(s).fit(s);
}

void Decode(const Segment& s) {
  const RowTiles tiles(s);
  float* scores = tiles.after(s);
  float* factors = scores + kDecodeRows * kStepEntries;
  ClearRows(s);
  PackTiles(s, tiles);
  ForEachStep(s, [&](int64_t step, int count) HWY_ATTR {
    for (int tile = 0; tile < tiles.n_tiles; ++tile) {
      if (VisibleInStep(s, tiles.begin(tile + 1) - 1, step, count) == 0) continue;
      ForHeight<kDecodeRows>(tiles.height(tile), [&](auto height) HWY_ATTR {
        DecodeStep<height>(s, tiles.begin(tile), step, count, tiles.queries(tile), scores, factors);
      });
    }
  });
  FinishRows(s);
}

// Rows [n_rows][kStepEntries] of scores for each page of the run, one after another.
void Score(const Segment& s, float* scores) {
  const RowTiles tiles(s);
  PackTiles(s, tiles);
  ForEachStep(s, [&](int64_t step, int count) HWY_ATTR {
    for (int tile = 0; tile < tiles.n_tiles; ++tile) {
      ForHeight<kDecodeRows>(tiles.height(tile), [&](auto height) HWY_ATTR {
        ScoreKeys<height>(s, s.pages[step / kPageEntries], static_cast<int>(step % kPageEntries),
                          count, tiles.queries(tile),
                          scores + size_t{1} * tiles.begin(tile) * kStepEntries,
                          AheadOf(s, step, s.key_bytes));
      });
    }
    scores += size_t{1} * tiles.n_rows * kStepEntries;
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#endif  // include guard, per level
