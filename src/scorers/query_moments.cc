#include "scorers/query_moments.h"

#include <Eigen/Core>

namespace pith {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Eigen::Index Index(size_t n) { return static_cast<Eigen::Index>(n); }

}  // namespace

void QueryMoments::Add(MatrixView<const float> rows) {
  if (rows.empty()) return;
  const Eigen::Map<const Rows, 0, Eigen::OuterStride<>> all(
      rows.data, Index(rows.rows), Index(rows.cols), Eigen::OuterStride<>(Index(rows.stride)));
  QueryMoments added(mean_.size());
  added.n_ = static_cast<int64_t>(rows.rows);
  Eigen::Map<Eigen::RowVectorXf> mean(added.mean_.data(), Index(rows.cols));
  mean = all.cast<double>().colwise().mean().cast<float>();
  if (rows.rows > 1) {
    const Rows centred = all.rowwise() - mean;
    Eigen::Map<Rows>(added.scatter_.data(), Index(rows.cols), Index(rows.cols)).noalias() =
        centred.transpose() * centred;
  }
  Add(added);
}

void QueryMoments::Add(const QueryMoments& other) {
  if (other.n_ == 0) return;
  if (n_ == 0) {
    *this = other;
    return;
  }
  const Eigen::Index dim = Index(mean_.size());
  const auto n = static_cast<float>(n_ + other.n_);
  const float part = static_cast<float>(other.n_) / n;
  Eigen::Map<Eigen::VectorXf> mean(mean_.data(), dim);
  const Eigen::VectorXf step = Eigen::Map<const Eigen::VectorXf>(other.mean_.data(), dim) - mean;
  Eigen::Map<Rows> scatter(scatter_.data(), dim, dim);
  scatter += Eigen::Map<const Rows>(other.scatter_.data(), dim, dim);
  scatter.noalias() += (static_cast<float>(n_) * part * step) * step.transpose();
  mean += part * step;
  n_ += other.n_;
}

std::vector<float> QueryMoments::Covariance() const {
  std::vector<float> covariance(scatter_);
  for (float& element : covariance) element /= static_cast<float>(n_);
  return covariance;
}

}  // namespace pith
