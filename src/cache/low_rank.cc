#include "cache/low_rank.h"

#include <fmt/format.h>

#include <Eigen/Core>
#include <algorithm>
#include <charconv>
#include <numeric>

#include "base/fail.h"
#include "cache/pq_codebook.h"

namespace pith {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr int kMostDirections = 256;  // of the largest head_dim there is
constexpr std::string_view kFourBits = "q4";

}  // namespace

std::string LowRankShape::name() const {
  return fmt::format("lr{}{}", rank, coefficients == CodecId::kQ4 ? kFourBits : "");
}

std::optional<LowRankShape> ParseLowRank(std::string_view name) {
  if (!name.starts_with("lr")) return std::nullopt;
  LowRankShape shape;
  std::string_view rank = name.substr(2);
  if (rank.ends_with(kFourBits)) {
    shape.coefficients = CodecId::kQ4;
    rank.remove_suffix(kFourBits.size());
  }
  const auto [end, error] = std::from_chars(rank.data(), rank.data() + rank.size(), shape.rank);
  if (error != std::errc() || end != rank.data() + rank.size() || rank.front() == '0' ||
      shape.rank < 1 || shape.rank > kMostDirections) {
    return std::nullopt;
  }
  return shape;
}

void CheckLowRank(const LowRankShape& shape, int head_dim) {
  if (shape.rank % 8 == 0 && shape.rank <= head_dim) return;
  Fail(ErrorCode::kInvalidArgument,
       "{} keeps {} directions of a head, expected a multiple of 8 up to its {} dimensions",
       shape.name(), shape.rank, head_dim);
}

LowRankBasis::LowRankBasis(int rank, std::span<const float> centre, std::span<const float> map,
                           std::span<const float> energy) {
  const auto dim = static_cast<Eigen::Index>(centre.size());
  if (map.size() != centre.size() * centre.size() || energy.size() != centre.size() || rank > dim) {
    Fail(ErrorCode::kInvalidArgument,
         "a map of {} numbers and {} energies, expected {} and {} for {} directions", map.size(),
         energy.size(), centre.size() * centre.size(), centre.size(), rank);
  }
  const std::vector<float> inverse = InverseOfPqMap(map, static_cast<int>(dim));
  const Eigen::Map<const Rows> of_map(map.data(), dim, dim);
  const Eigen::Map<const Rows> of_inverse(inverse.data(), dim, dim);
  const Eigen::Map<const Eigen::RowVectorXf> mean(centre.data(), dim);

  std::vector<Eigen::Index> order(centre.size());
  std::iota(order.begin(), order.end(), Eigen::Index{0});
  std::ranges::stable_sort(order, std::greater(), [&](Eigen::Index i) { return energy[i]; });
  Rows chosen = Rows::Zero(rank, dim);  // in coordinates of the map
  Eigen::RowVectorXf rest = mean * of_inverse;
  const float whole = rest.norm();
  for (int i = 0; i < rank - 1; ++i) {
    chosen(i, order[i]) = 1;
    rest[order[i]] = 0;
  }
  if (rest.norm() > 1e-6f * whole) {
    chosen.row(rank - 1) = rest.normalized();
  } else {
    chosen(rank - 1, order[rank - 1]) = 1;
  }
  directions_.resize(centre.size() * rank);
  duals_.resize(directions_.size());
  centre_.resize(rank);
  Eigen::Map<Rows>(directions_.data(), dim, rank) = (chosen * of_map).transpose();
  Eigen::Map<Rows> duals(duals_.data(), dim, rank);
  duals = of_inverse * chosen.transpose();
  Eigen::Map<Eigen::RowVectorXf>(centre_.data(), rank) = mean * duals;
}

void LowRankBasis::Coefficients(const float* key, float* coefficients) const {
  const auto rank = std::ssize(centre_);
  const auto dim = std::ssize(duals_) / rank;
  Eigen::Map<Eigen::RowVectorXf>(coefficients, rank).noalias() =
      Eigen::Map<const Eigen::RowVectorXf>(key, dim) *
      Eigen::Map<const Rows>(duals_.data(), dim, rank);
}

void LowRankBasis::Key(const float* coefficients, float* key) const {
  const auto rank = std::ssize(centre_);
  const auto dim = std::ssize(directions_) / rank;
  Eigen::Map<Eigen::VectorXf>(key, dim).noalias() =
      Eigen::Map<const Rows>(directions_.data(), dim, rank) *
      Eigen::Map<const Eigen::VectorXf>(coefficients, rank);
}

size_t LowRankBasis::Bytes(int rank, int head_dim) {
  return sizeof(float) * rank * (2 * size_t{1} * head_dim + 1);
}

}  // namespace pith
