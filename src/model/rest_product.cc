// Adds the rest of a split q4_1 matrix to the product with its q4_0 part.
#include <algorithm>
#include <vector>

#include "model/split_q4_1.h"

// Levels that would compile to the same code as a lower one, or whose vectors have no fixed size.
#define HWY_DISABLED_TARGETS \
  (HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/rest_product.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h, which includes this file again for every level.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using PanelTag = hn::CappedTag<float, kRestPanel>;
inline constexpr int kPanelLanes = static_cast<int>(hn::MaxLanes(PanelTag()));
inline constexpr int kPanelVectors = kRestPanel / kPanelLanes;
inline constexpr int kTileTokens = 4;  // with a panel of two vectors, what 16 registers hold

// sums[b] of x[32 b .. 32 b + 31]
void BlockSums(const float* HWY_RESTRICT x, int64_t n_blocks, float* HWY_RESTRICT sums) {
  const PanelTag d;
  for (int64_t b = 0; b < n_blocks; ++b) {
    const float* block = x + b * kQ4BlockWeights;
    auto sum = hn::LoadU(d, block);
    for (int i = kPanelLanes; i < kQ4BlockWeights; i += kPanelLanes) {
      sum = hn::Add(sum, hn::LoadU(d, block + i));
    }
    sums[b] = hn::GetLane(hn::SumOfLanes(d, sum));
  }
}

// One panel and kTokens tokens; sums [kTokens, n_blocks]. Of the panel, the first n_rows are real.
template <int kTokens>
HWY_INLINE void AddTile(const ggml_fp16_t* HWY_RESTRICT panel, const float* HWY_RESTRICT sums,
                        int64_t n_blocks, float* HWY_RESTRICT y, size_t y_stride, int n_rows) {
  const PanelTag d;
  const hn::Rebind<uint16_t, PanelTag> d16;
  const hn::Rebind<hwy::float16_t, PanelTag> dh;
  hn::Vec<PanelTag> total[kTokens][kPanelVectors];
  for (auto& row : total) {
    for (auto& v : row) v = hn::Zero(d);
  }
  for (int64_t b = 0; b < n_blocks; ++b) {
    hn::Vec<PanelTag> rest[kPanelVectors];
    for (int i = 0; i < kPanelVectors; ++i) {
      rest[i] = hn::PromoteTo(
          d, hn::BitCast(dh, hn::LoadU(d16, panel + b * kRestPanel + i * kPanelLanes)));
    }
    for (int t = 0; t < kTokens; ++t) {
      const auto sum = hn::Set(d, sums[t * n_blocks + b]);
      for (int i = 0; i < kPanelVectors; ++i) total[t][i] = hn::MulAdd(rest[i], sum, total[t][i]);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    float* to = y + static_cast<size_t>(t) * y_stride;
    if (n_rows == kRestPanel) {
      for (int i = 0; i < kPanelVectors; ++i) {
        float* part = to + i * kPanelLanes;
        hn::StoreU(hn::Add(hn::LoadU(d, part), total[t][i]), d, part);
      }
    } else {
      HWY_ALIGN float padded[kRestPanel];
      for (int i = 0; i < kPanelVectors; ++i) hn::Store(total[t][i], d, padded + i * kPanelLanes);
      for (int i = 0; i < n_rows; ++i) to[i] += padded[i];
    }
  }
}

// Panels begin..end-1 for all rows of y; sums [y.rows, n_blocks].
void AddPanels(const ggml_fp16_t* rest, const float* sums, int64_t n_blocks, MatrixView<float> y,
               int64_t begin, int64_t end) {
  for (int64_t p = begin; p < end; ++p) {
    const ggml_fp16_t* panel = rest + p * n_blocks * kRestPanel;
    const int64_t column = p * kRestPanel;
    const int n_rows =
        static_cast<int>(std::min<int64_t>(kRestPanel, static_cast<int64_t>(y.cols) - column));
    size_t t = 0;
    for (; t + kTileTokens <= y.rows; t += kTileTokens) {
      AddTile<kTileTokens>(panel, sums + static_cast<int64_t>(t) * n_blocks, n_blocks,
                           y.row(t) + column, y.stride, n_rows);
    }
    for (; t < y.rows; ++t) {
      AddTile<1>(panel, sums + static_cast<int64_t>(t) * n_blocks, n_blocks, y.row(t) + column,
                 y.stride, n_rows);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace pith {
namespace {

HWY_EXPORT(BlockSums);
HWY_EXPORT(AddPanels);

// Few enough for their sums to stay in the first-level cache with the panels streaming by.
constexpr size_t kBlockTokens = 32;

}  // namespace

// Threads share the tokens where each gets a few, so that sums are made once, otherwise the panels.
void AddRestProduct(const ggml_fp16_t* rest, MatrixView<const float> x, MatrixView<float> y,
                    int thread, int n_threads) {
  const auto share = [&](size_t n, int i) {
    return n * static_cast<size_t>(i) / static_cast<size_t>(n_threads);
  };
  const bool by_tokens = y.rows >= size_t{8} * static_cast<size_t>(n_threads);
  const size_t n_panels = (y.cols + kRestPanel - 1) / kRestPanel;
  const auto panel_begin = static_cast<int64_t>(by_tokens ? 0 : share(n_panels, thread));
  const auto panel_end = static_cast<int64_t>(by_tokens ? n_panels : share(n_panels, thread + 1));
  const size_t token_end = by_tokens ? share(y.rows, thread + 1) : y.rows;
  const size_t n_blocks = x.cols / kQ4BlockWeights;
  thread_local std::vector<float> sums;  // [kBlockTokens, n_blocks]
  sums.resize(std::max(sums.size(), kBlockTokens * n_blocks));
  for (size_t t = by_tokens ? share(y.rows, thread) : 0; t < token_end; t += kBlockTokens) {
    const size_t n = std::min(kBlockTokens, token_end - t);
    for (size_t i = 0; i < n; ++i) {
      HWY_DYNAMIC_DISPATCH(BlockSums)
      (x.row(t + i), static_cast<int64_t>(n_blocks), sums.data() + i * n_blocks);
    }
    HWY_DYNAMIC_DISPATCH(AddPanels)
    (rest, sums.data(), static_cast<int64_t>(n_blocks), {y.row(t), n, y.cols, y.stride},
     panel_begin, panel_end);
  }
}

}  // namespace pith
#endif  // HWY_ONCE
