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

// |c|^2 - 2 c . x, which orders centroids as their distances from x do, of kRows rows at once.
template <int kRows>
HWY_INLINE void FindTile(const float* HWY_RESTRICT table, size_t n_padded, int n_dims,
                         const float* HWY_RESTRICT rows, size_t stride, uint8_t* codes) {
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
    for (int r = 0; r < kRows; ++r) sums[r] = hn::LoadU(d, table + n_dims * n_padded + c);
    for (int i = 0; i < n_dims; ++i) {
      const V centroids = hn::LoadU(d, table + i * n_padded + c);
      for (int r = 0; r < kRows; ++r) {
        sums[r] = hn::MulAdd(centroids, hn::Set(d, rows[r * stride + i]), sums[r]);
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

void Find(const float* HWY_RESTRICT table, size_t n_padded, int n_dims,
          const MatrixView<const float>& rows, uint8_t* codes) {
  constexpr int kRows = 4;
  size_t i = 0;
  for (; i + kRows <= rows.rows; i += kRows) {
    FindTile<kRows>(table, n_padded, n_dims, rows.row(i), rows.stride, codes + i);
  }
  for (; i < rows.rows; ++i) {
    FindTile<1>(table, n_padded, n_dims, rows.row(i), rows.stride, codes + i);
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
  n_padded_ = (n + kMostLanes - 1) / kMostLanes * kMostLanes;
  table_.assign(static_cast<size_t>(n_dims + 1) * n_padded_, 0.0f);
  float* norms = table_.data() + static_cast<size_t>(n_dims) * n_padded_;
  std::fill_n(norms, n_padded_, std::numeric_limits<float>::infinity());
  for (size_t c = 0; c < n; ++c) {
    norms[c] = 0;
    for (int i = 0; i < n_dims; ++i) {
      const float x = centroids[c * static_cast<size_t>(n_dims) + static_cast<size_t>(i)];
      table_[static_cast<size_t>(i) * n_padded_ + c] = -2 * x;
      norms[c] += x * x;
    }
  }
}

void CentroidSearch::Find(MatrixView<const float> rows, std::span<uint8_t> codes) const {
  if (rows.cols != static_cast<size_t>(n_dims_) || codes.size() < rows.rows) {
    Fail(ErrorCode::kInvalidArgument, "rows of {} for centroids of {} dimensions, {} codes for {}",
         rows.cols, n_dims_, codes.size(), rows.rows);
  }
  HWY_DYNAMIC_DISPATCH(Find)(table_.data(), n_padded_, n_dims_, rows, codes.data());
}

}  // namespace pith
#endif  // HWY_ONCE
