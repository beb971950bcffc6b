#include "cache/pq_codebook.h"

#include <fmt/format.h>

#include <Eigen/Core>
#include <Eigen/LU>
#include <algorithm>
#include <charconv>

#include "base/fail.h"
#include "cache/nearest_centroid.h"

namespace pith {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Square = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr int kMostSubspaces = 256;  // of the largest head_dim there is

}  // namespace

std::string PqShape::name() const { return fmt::format("pq{}x{}", bits, n_subspaces); }

std::optional<PqShape> ParsePqShape(std::string_view name) {
  PqShape shape;
  if (name.starts_with("pq4x")) {
    shape.bits = 4;
  } else if (!name.starts_with("pq8x")) {
    return std::nullopt;
  }
  const std::string_view count = name.substr(4);
  const auto [end, error] =
      std::from_chars(count.data(), count.data() + count.size(), shape.n_subspaces);
  if (error != std::errc() || end != count.data() + count.size() || count.front() == '0' ||
      shape.n_subspaces < 1 || shape.n_subspaces > kMostSubspaces ||
      (shape.bits == 4 && shape.n_subspaces % 2 != 0)) {
    return std::nullopt;
  }
  return shape;
}

void CheckPqShape(const PqShape& shape, int head_dim) {
  if (shape.n_subspaces < 1 || head_dim % shape.n_subspaces != 0) {
    Fail(ErrorCode::kInvalidArgument,
         "{} cuts a head into {} equal parts, but {} dimensions have none", shape.name(),
         shape.n_subspaces, head_dim);
  }
}

std::vector<float> InverseOfPqMap(std::span<const float> map, int head_dim) {
  const Eigen::FullPivLU<Square> factors(
      Eigen::Map<const Rows>(map.data(), head_dim, head_dim).cast<double>());
  if (!factors.isInvertible()) {
    Fail(ErrorCode::kInvalidArgument, "the map of a head's keys has no inverse");
  }
  std::vector<float> inverse(map.size());
  Eigen::Map<Rows>(inverse.data(), head_dim, head_dim) = factors.inverse().cast<float>();
  return inverse;
}

std::vector<float> PqCoordinates(MatrixView<const float> keys, std::span<const float> centre,
                                 std::span<const float> inverse) {
  const auto dim = static_cast<Eigen::Index>(centre.size());
  const auto n = static_cast<Eigen::Index>(keys.rows);
  const Eigen::Map<const Rows, 0, Eigen::OuterStride<>> from(
      keys.data, n, dim, Eigen::OuterStride<>(static_cast<Eigen::Index>(keys.stride)));
  const Eigen::Map<const Eigen::RowVectorXf> offset(centre.data(), dim);
  std::vector<float> coordinates(keys.rows * centre.size());
  Eigen::Map<Rows>(coordinates.data(), n, dim).noalias() =
      Rows(from.rowwise() - offset) * Eigen::Map<const Rows>(inverse.data(), dim, dim);
  return coordinates;
}

PqCodebook::PqCodebook(const PqShape& shape, std::span<const float> centre,
                       std::span<const float> map, std::span<const float> centroids)
    : shape_(shape),
      head_dim_(static_cast<int>(centre.size())),
      centre_(centre.begin(), centre.end()) {
  CheckPqShape(shape, head_dim_);
  const size_t dim = centre.size();
  const auto n_centroids = static_cast<size_t>(shape.n_centroids());
  if (map.size() != dim * dim || centroids.size() != dim * n_centroids) {
    Fail(ErrorCode::kInvalidArgument,
         "a map of {} and centroids of {} numbers, expected {} and {} for {} dimensions",
         map.size(), centroids.size(), dim * dim, dim * n_centroids, head_dim_);
  }
  inverse_ = InverseOfPqMap(map, head_dim_);
  const std::vector<float> origin(dim);
  const std::vector<float> offset = PqCoordinates({origin.data(), 1, dim, dim}, centre, inverse_);
  const size_t width = dim / static_cast<size_t>(shape.n_subspaces);
  packed_.resize(dim * dim);
  for (size_t i = 0; i < dim; ++i) {
    for (size_t d = 0; d < dim; ++d) packed_[d * dim + i] = map[i * dim + d];
  }
  half_norms_.resize(static_cast<size_t>(shape.n_subspaces) * n_centroids);
  for (size_t d = 0; d < dim; ++d) {
    const float* of_subspace = centroids.data() + d / width * n_centroids * width;
    for (size_t k = 0; k < n_centroids; ++k) {
      const float x = of_subspace[k * width + d % width];
      packed_.push_back(x - offset[d]);
      half_norms_[d / width * n_centroids + k] += x * x / 2;
    }
  }
}

// The search sees centroids with the centre and coordinates and norms without it: what this adds to
// c . x is the same for all centroids.
void PqCodebook::Encode(MatrixView<const float> keys, std::span<uint8_t> codes) const {
  const auto n_subspaces = static_cast<size_t>(shape_.n_subspaces);
  if (keys.cols != centre_.size() || codes.size() != keys.rows * n_subspaces) {
    Fail(ErrorCode::kInvalidArgument, "{} keys of {} dimensions for {} codes, expected {} and {}",
         keys.rows, keys.cols, codes.size(), head_dim_, keys.rows * n_subspaces);
  }
  const std::vector<float> coordinates = PqCoordinates(keys, centre_, inverse_);
  const auto dim = static_cast<size_t>(head_dim_);
  const auto n_centroids = static_cast<size_t>(shape_.n_centroids());
  const size_t width = dim / n_subspaces;
  std::vector<uint8_t> found(keys.rows);
  for (size_t m = 0; m < n_subspaces; ++m) {
    FindCodes({coordinates.data() + m * width, keys.rows, width, dim},
              packed().subspan(dim * dim + m * width * n_centroids, width * n_centroids),
              std::span(half_norms_).subspan(m * n_centroids, n_centroids), found);
    for (size_t i = 0; i < keys.rows; ++i) codes[i * n_subspaces + m] = found[i];
  }
}

void PqCodebook::Decode(std::span<const uint8_t> codes, float* key) const {
  const auto dim = static_cast<size_t>(head_dim_);
  const size_t width = dim / codes.size();
  const auto n_centroids = static_cast<size_t>(shape_.n_centroids());
  std::fill_n(key, dim, 0.0f);
  for (size_t i = 0; i < dim; ++i) {
    const float y = packed_[dim * dim + i * n_centroids + codes[i / width]];
    for (size_t j = 0; j < dim; ++j) key[j] += y * packed_[j * dim + i];
  }
}

size_t PqCodebook::Bytes(const PqShape& shape, int head_dim) {
  const auto dim = static_cast<size_t>(head_dim);
  const auto n_centroids = static_cast<size_t>(shape.n_centroids());
  return sizeof(float) * (dim + 2 * dim * dim + dim * n_centroids +
                          static_cast<size_t>(shape.n_subspaces) * n_centroids);
}

}  // namespace pith
