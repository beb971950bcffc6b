// Compiled once per SIMD level, as attention/kernels.cc is.
#include "cache/nearest_centroid.h"

#define HWY_DISABLED_TARGETS \
  (HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cache/nearest_centroid.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h, which includes this file again for every level.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::CappedTag<float, 16>;
using IndexTag = hn::RebindToSigned<FloatTag>;

// Of kRows rows at once.
template <int kRows>
HWY_INLINE void FindTile(const float* HWY_RESTRICT centroids, const float* HWY_RESTRICT half_norms,
                         size_t n_padded, int n_dims, const float* HWY_RESTRICT rows, size_t stride,
                         uint8_t* codes) {
  const FloatTag d;
  const IndexTag di;
  using V = hn::Vec<FloatTag>;
  V best[kRows];
  hn::Vec<IndexTag> index[kRows];
  for (int r = 0; r < kRows; ++r) {
    best[r] = hn::Set(d, hwy::HighestValue<float>());
    index[r] = hn::Zero(di);
  }
  for (size_t c = 0; c < n_padded; c += hn::Lanes(d)) {
    V sums[kRows];
    for (int r = 0; r < kRows; ++r) sums[r] = hn::LoadU(d, half_norms + c);
    for (int i = 0; i < n_dims; ++i) {
      const V element = hn::LoadU(d, centroids + i * n_padded + c);
      for (int r = 0; r < kRows; ++r) {
        sums[r] = hn::NegMulAdd(element, hn::Set(d, rows[r * stride + i]), sums[r]);
      }
    }
    const auto at = hn::Iota(di, static_cast<int32_t>(c));
    for (int r = 0; r < kRows; ++r) {
      const auto nearer = hn::Lt(sums[r], best[r]);
      best[r] = hn::IfThenElse(nearer, sums[r], best[r]);
      index[r] = hn::IfThenElse(hn::RebindMask(di, nearer), at, index[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    const auto least = hn::MinOfLanes(d, best[r]);
    const auto first =
        hn::IfThenElse(hn::RebindMask(di, hn::Eq(best[r], least)), index[r], hn::Set(di, 255));
    codes[r] = static_cast<uint8_t>(hn::GetLane(hn::MinOfLanes(di, first)));
  }
}

void Find(const float* HWY_RESTRICT centroids, const float* HWY_RESTRICT half_norms,
          size_t n_padded, const MatrixView<const float>& rows, uint8_t* codes) {
  constexpr int kRows = 4;
  const int n_dims = static_cast<int>(rows.cols);
  size_t i = 0;
  for (; i + kRows <= rows.rows; i += kRows) {
    FindTile<kRows>(centroids, half_norms, n_padded, n_dims, rows.row(i), rows.stride, codes + i);
  }
  for (; i < rows.rows; ++i) {
    FindTile<1>(centroids, half_norms, n_padded, n_dims, rows.row(i), rows.stride, codes + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <limits>

#include "base/fail.h"

namespace pith {
namespace {

constexpr size_t kMostLanes = 16;
constexpr size_t kMostCentroids = 256;

}  // namespace

HWY_EXPORT(Find);

CentroidSearch::CentroidSearch(std::span<const float> centroids, int n_dims) : n_dims_(n_dims) {
  const size_t n = n_dims < 1 ? 0 : centroids.size() / static_cast<size_t>(n_dims);
  if (n < 1 || n > kMostCentroids || n * static_cast<size_t>(n_dims) != centroids.size()) {
    Fail(ErrorCode::kInvalidArgument, "{} numbers are not 1 to {} centroids of {} dimensions",
         centroids.size(), kMostCentroids, n_dims);
  }
  const size_t n_padded = (n + kMostLanes - 1) / kMostLanes * kMostLanes;
  centroids_.assign(static_cast<size_t>(n_dims) * n_padded, 0.0f);
  half_norms_.assign(n_padded, std::numeric_limits<float>::infinity());
  for (size_t c = 0; c < n; ++c) {
    float norm = 0;
    for (int i = 0; i < n_dims; ++i) {
      const float x = centroids[c * static_cast<size_t>(n_dims) + static_cast<size_t>(i)];
      centroids_[static_cast<size_t>(i) * n_padded + c] = x;
      norm += x * x;
    }
    half_norms_[c] = norm / 2;
  }
}

void CentroidSearch::Find(MatrixView<const float> rows, std::span<uint8_t> codes) const {
  if (rows.cols != static_cast<size_t>(n_dims_) || codes.size() < rows.rows) {
    Fail(ErrorCode::kInvalidArgument, "rows of {} for centroids of {} dimensions, {} codes for {}",
         rows.cols, n_dims_, codes.size(), rows.rows);
  }
  FindCodes(rows, centroids_, half_norms_, codes);
}

void FindCodes(MatrixView<const float> rows, std::span<const float> centroids,
               std::span<const float> half_norms, std::span<uint8_t> codes) {
  HWY_DYNAMIC_DISPATCH(Find)
  (centroids.data(), half_norms.data(), half_norms.size(), rows, codes.data());
}

}  // namespace pith
#endif  // HWY_ONCE
