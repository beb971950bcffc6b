// The largest probability that each entry gets from many queries (KVzip, arXiv 2505.23416, section
// 3.2): one pass over the keys for the normalisers, as FlashAttention's without the values, one for
// the maxima, which needs no exponential. Included once per SIMD level.
#if defined(PITH_ATTENTION_MAX_PROBABILITY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PITH_ATTENTION_MAX_PROBABILITY_INL_H_
#undef PITH_ATTENTION_MAX_PROBABILITY_INL_H_
#else
#define PITH_ATTENTION_MAX_PROBABILITY_INL_H_
#endif

#include <cmath>

#include "attention/simd-inl.h"
#include "attention/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {

// max[i] = the larger of max[i] and q[r] . keys - normalisers[r] over the rows of a tile; NaN is
// never the larger. max [kPanel].
HWY_INLINE void MaxTile(const float* HWY_RESTRICT q, const float* HWY_RESTRICT keys, int head_dim,
                        const float* HWY_RESTRICT normalisers, float* HWY_RESTRICT max) {
  const FloatTag d;
  using V = hn::Vec<FloatTag>;
  V sums[kTileRows][2];
  DotTile(q, keys, head_dim, sums);
  PITH_UNROLL for (int v = 0; v < 2; ++v) {
    V largest = hn::Load(d, max + v * kLanes);
    PITH_UNROLL for (int r = 0; r < kTileRows; ++r) {
      const V x = hn::Sub(sums[r][v], hn::Set(d, normalisers[r]));
      largest = hn::IfThenElse(hn::Gt(x, largest), x, largest);  // Max of NaN differs by machine
    }
    hn::Store(largest, d, max + v * kLanes);
  }
}

// Rows [rows][head_dim] f32 to panels as ConvertKeys makes them; zeros after the last row.
HWY_INLINE void PackKeys(const MatrixView<const float>& rows, size_t first, int n, int head_dim,
                         float* HWY_RESTRICT panels) {
  std::fill_n(panels, size_t{kStepEntries} * head_dim, 0.0f);
  for (int entry = 0; entry < n; ++entry) {
    const float* HWY_RESTRICT from = rows.row(first + entry);
    float* HWY_RESTRICT to = panels + entry / kPanel * kPanel * head_dim + entry % kPanel;
    for (int i = 0; i < head_dim; ++i) to[i * kPanel] = from[i];
  }
}

// Calls step(first, count, from) for the entries [begin, end) page by page: the panels then hold
// `count` entries from `first` on, a multiple of kBlockEntries, the first `from` not of the range.
template <class Step>
HWY_INLINE void ForEachPage(const JudgeSegment& s, int64_t begin, int64_t end, float* panels,
                            const Step& step) {
  for (int64_t first = begin / kBlockEntries * kBlockEntries; first < end;) {
    const int64_t next = std::min((first / kPageEntries + 1) * kPageEntries, end);
    const int count = static_cast<int>(next - first);
    const auto* keys = reinterpret_cast<const F16*>(s.pages[first / kPageEntries]);
    ConvertKeys(keys + static_cast<size_t>(first % kPageEntries) * s.head_dim, count, s.head_dim,
                panels);
    step(first, count, static_cast<int>(std::max<int64_t>(begin - first, 0)));
    first = next;
  }
}

// A tile's softmax over the entries [from, visible(r)) of a page, of which only max and sum remain.
template <class Visible>
HWY_INLINE void NormaliseTile(const float* HWY_RESTRICT q, const float* HWY_RESTRICT panels,
                              int head_dim, int from, const Visible& visible,
                              float* HWY_RESTRICT scores, float* HWY_RESTRICT max,
                              float* HWY_RESTRICT sum) {
  const int n_visible = visible(kTileRows - 1);  // later rows see more
  if (n_visible <= from) return;
  for (int entry = from / kPanel * kPanel; entry < n_visible; entry += kPanel) {
    ScoreTile(q, panels + entry * head_dim, head_dim, scores + entry);
  }
  for (int r = 0; r < kTileRows; ++r) {
    const int n = visible(r);
    if (n <= from) continue;
    float* HWY_RESTRICT row = scores + r * kStepEntries;
    std::fill_n(row, from, -std::numeric_limits<float>::infinity());
    float step_sum = 0;
    SoftmaxRow<false>(row, n, max[r], sum[r], step_sum);
  }
}

void Judge(const JudgeSegment& s) {
  const int head_rows = PaddedRows(s.n_tokens);
  const int n_rows = s.group * head_rows;
  float* panels = s.scratch;
  float* scores = panels + size_t{kStepEntries} * s.head_dim;
  float* q = scores + size_t{kRowMultiple} * kStepEntries;
  float* max = q + size_t{1} * n_rows * s.head_dim;
  float* sum = max + n_rows;
  float* normalisers = sum + n_rows;
  for (int head = 0; head < s.group; ++head) {
    PackQueries<kTileRows>(s.q + size_t{1} * head * s.head_dim, s.q_stride, s.n_tokens, 1,
                           s.head_dim, s.scale, RowFormat{},
                           q + size_t{1} * head * head_rows * s.head_dim);
  }
  std::fill_n(max, n_rows, SoftmaxState<float>::Empty());
  std::fill_n(sum, n_rows, 0.0f);

  const int n_tiles = (s.n_tokens + kTileRows - 1) / kTileRows;  // of a head
  const auto for_each_tile = [&](const auto& work) HWY_ATTR {
    for (int head = 0; head < s.group; ++head) {
      for (int tile = 0; tile < n_tiles; ++tile) {
        work(tile * kTileRows, head * head_rows + tile * kTileRows);  // token, row
      }
    }
  };
  const auto normalise = [&](int from, const auto& visible) HWY_ATTR {
    for_each_tile([&](int token, int row) HWY_ATTR {
      NormaliseTile(
          q + size_t{1} * row * s.head_dim, panels, s.head_dim, from,
          [&](int r) { return visible(token + r); }, scores, max + row, sum + row);
    });
  };
  for (size_t first = 0; first < s.extra.rows; first += kStepEntries) {
    const int n = static_cast<int>(std::min<size_t>(s.extra.rows - first, kStepEntries));
    PackKeys(s.extra, first, n, s.head_dim, panels);
    normalise(0, [n](int) { return n; });
  }
  ForEachPage(s, s.begin, s.end, panels, [&](int64_t, int count, int from) HWY_ATTR {
    normalise(from, [count](int) { return count; });
  });
  ForEachPage(
      s, s.tail_begin, s.first_visible + s.n_tokens - 1, panels,
      [&](int64_t first, int count, int from) HWY_ATTR {
        normalise(from, [&](int token) {
          return static_cast<int>(std::clamp<int64_t>(s.first_visible + token - first, 0, count));
        });
      });

  for_each_tile([&](int token, int row) HWY_ATTR {
    for (int r = 0; r < kTileRows; ++r) {
      constexpr float kInfinity = std::numeric_limits<float>::infinity();
      float normaliser = kInfinity;
      if (token + r < s.n_tokens) {
        normaliser = max[row + r] + std::log2(sum[row + r]);
        if (s.log2_divisor != nullptr) normaliser += s.log2_divisor[token + r];
      }
      normalisers[row + r] = std::isfinite(normaliser) ? normaliser : kInfinity;
    }
  });

  const int64_t base = s.begin / kBlockEntries * kBlockEntries;
  ForEachPage(s, s.begin, s.end, panels, [&](int64_t first, int count, int from) HWY_ATTR {
    for (int entry = from / kPanel * kPanel; entry < count; entry += kPanel) {
      for (int head = 0; head < s.group; ++head) {
        float* HWY_RESTRICT to = s.max + head * s.max_stride + (first - base) + entry;
        std::fill_n(to, kPanel, -std::numeric_limits<float>::infinity());
        for (int tile = 0; tile < n_tiles; ++tile) {
          const size_t row = size_t{1} * head * head_rows + tile * kTileRows;
          MaxTile(q + row * s.head_dim, panels + entry * s.head_dim, s.head_dim, normalisers + row,
                  to);
        }
      }
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#endif  // include guard, per level
