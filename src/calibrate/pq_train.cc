#include "calibrate/pq_train.h"

#include <ggml.h>

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "base/fail.h"
#include "calibrate/kmeans.h"

namespace pith {
namespace {

using Eigen::Index;
using Square = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Of the queries' mean moment, so that no direction of the keys is free.
constexpr double kQueryFloor = 1e-2;
constexpr int kRounds = 12;

float ToF16Number(double x) { return ggml_fp16_to_fp32(ggml_fp32_to_fp16(static_cast<float>(x))); }

// Puts `order`, by which energies descend, into an order in which both halves have like products
// of energies, and their halves again.
void Balance(const Eigen::VectorXd& log_energy, std::span<Index> order) {
  if (order.size() < 2 || order.size() % 2 != 0) return;
  std::array<std::vector<Index>, 2> halves;
  std::array<double, 2> sums = {};
  for (const Index i : order) {
    const bool first_full = halves[0].size() == order.size() / 2;
    const bool second_full = halves[1].size() == order.size() / 2;
    const size_t half = first_full || (!second_full && sums[1] < sums[0]) ? 1 : 0;
    halves[half].push_back(i);
    sums[half] += log_energy[i];
  }
  for (size_t half = 0; half < 2; ++half) {
    const std::span<Index> part = order.subspan(half * order.size() / 2, order.size() / 2);
    std::copy(halves[half].begin(), halves[half].end(), part.begin());
    Balance(log_energy, part);
  }
}

}  // namespace

PqMap FitPqMap(const KeySample& sample) {
  const auto dim = static_cast<Index>(sample.keys.cols);
  Eigen::VectorXd mean = Eigen::VectorXd::Zero(dim);
  Square moment = Square::Zero(dim, dim);
  double total = 0;
  const auto row = [&](size_t i) {
    return Eigen::Map<const Eigen::VectorXf>(sample.keys.row(i), dim).cast<double>();
  };
  for (size_t i = 0; i < sample.keys.rows; ++i) {
    mean += double{sample.weights[i]} * row(i);
    total += sample.weights[i];
  }
  mean /= total;
  for (size_t i = 0; i < sample.keys.rows; ++i) {
    const Eigen::VectorXd key = row(i) - mean;
    moment.selfadjointView<Eigen::Lower>().rankUpdate(key, sample.weights[i] / total);
  }
  const Square covariance = moment.selfadjointView<Eigen::Lower>();
  const Eigen::Map<const Square> queries(sample.queries.data(), dim, dim);
  if (!mean.allFinite() || !covariance.allFinite() || !queries.allFinite()) {
    Fail(ErrorCode::kInvalidArgument,
         "codebooks need keys and queries that are finite numbers, and a weight above zero");
  }
  const double scale = std::max(queries.trace() / static_cast<double>(dim), 1e-30);
  Square metric = queries / scale;
  metric.diagonal().array() += kQueryFloor;
  const Eigen::SelfAdjointEigenSolver<Square> of_queries(metric);
  const Square whitening = of_queries.operatorSqrt();
  const Eigen::SelfAdjointEigenSolver<Square> of_keys(whitening * covariance * whitening);
  std::vector<Index> order(static_cast<size_t>(dim));
  std::iota(order.rbegin(), order.rend(), Index{0});  // eigenvalues ascend
  Balance(of_keys.eigenvalues().array().max(1e-30).log(), order);

  const Square unwhitening = of_queries.operatorInverseSqrt();
  const double all = std::max(of_keys.eigenvalues().cwiseMax(0).sum(), 1e-30);
  PqMap map;
  for (const double x : mean) map.centre.push_back(ToF16Number(x));
  for (const Index i : order) {
    const Eigen::VectorXd direction = unwhitening * of_keys.eigenvectors().col(i);
    for (const double x : direction) map.map.push_back(ToF16Number(x));
    map.energy.push_back(ToF16Number(std::max(of_keys.eigenvalues()[i], 0.0) / all));
  }
  return map;
}

std::vector<float> FitPqCentroids(const KeySample& sample, const PqMap& map, const PqShape& shape,
                                  uint64_t seed) {
  const size_t dim = sample.keys.cols;
  CheckPqShape(shape, static_cast<int>(dim));
  const std::vector<float> coordinates =
      PqCoordinates(sample.keys, map.centre, InverseOfPqMap(map.map, static_cast<int>(dim)));
  const auto n_subspaces = static_cast<size_t>(shape.n_subspaces);
  const size_t width = dim / n_subspaces;
  std::vector<float> centroids;
  for (size_t m = 0; m < n_subspaces; ++m) {
    for (const float x :
         WeightedKMeans({coordinates.data() + m * width, sample.keys.rows, width, dim},
                        sample.weights, shape.n_centroids(), kRounds, seed + m)) {
      centroids.push_back(ToF16Number(x));
    }
  }
  return centroids;
}

}  // namespace pith
