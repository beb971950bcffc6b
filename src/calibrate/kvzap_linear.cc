#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/fail.h"
#include "calibrate/kvzap_layers.h"

namespace pith {
namespace {

// Relative to the mean variance of a hidden state's elements.
constexpr std::array kPenalties = {1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0};

// Sums over samples, hidden states taken from `shift` so that their squares lose no digits.
struct Moments {
  double n = 0;
  Eigen::VectorXd x;   // [n_embd]
  Eigen::MatrixXd xx;  // [n_embd, n_embd], lower half
  Eigen::VectorXd y;   // [n_kv_heads]
  Eigen::MatrixXd xy;  // [n_embd, n_kv_heads]
  Eigen::VectorXd yy;  // [n_kv_heads]
};

Moments Gather(const KvzapShape& shape, const std::vector<KvzapShard>& shards, int layer,
               const Eigen::RowVectorXf& shift) {
  Moments m;
  m.x = Eigen::VectorXd::Zero(shape.n_embd);
  m.xx = Eigen::MatrixXd::Zero(shape.n_embd, shape.n_embd);
  m.y = m.yy = Eigen::VectorXd::Zero(shape.n_kv_heads);
  m.xy = Eigen::MatrixXd::Zero(shape.n_embd, shape.n_kv_heads);
  for (const KvzapShard& shard : shards) {
    RowMatrix rows = HiddenRows(shape, shard, layer);
    rows.rowwise() -= shift;
    const RowMatrix want = Targets(shape, shard, layer);
    // In f32 within a shard, whose sums are short; in double over all of them.
    Eigen::MatrixXf square = Eigen::MatrixXf::Zero(shape.n_embd, shape.n_embd);
    square.selfadjointView<Eigen::Lower>().rankUpdate(rows.transpose());
    m.xx.triangularView<Eigen::Lower>() += square.cast<double>();
    m.xy += (rows.transpose() * want).cast<double>();
    m.x += rows.colwise().sum().transpose().cast<double>();
    m.y += want.colwise().sum().transpose().cast<double>();
    m.yy += want.cast<double>().array().square().matrix().colwise().sum().transpose();
    m.n += static_cast<double>(rows.rows());
  }
  return m;
}

struct Solution {
  Eigen::MatrixXd weight;  // [n_embd, n_kv_heads], f16 numbers
  Eigen::VectorXd bias;    // [n_kv_heads], of shifted hidden states
};

Solution Solve(const Moments& m, double penalty) {
  Eigen::MatrixXd covariance = m.xx / m.n;
  covariance.triangularView<Eigen::Lower>() -= (m.x / m.n) * (m.x / m.n).transpose();
  covariance.diagonal().array() += penalty * covariance.diagonal().mean() + 1e-30;
  const Eigen::LLT<Eigen::MatrixXd, Eigen::Lower> factor(covariance);
  Eigen::MatrixXf weight =
      factor.solve(m.xy / m.n - (m.x / m.n) * (m.y / m.n).transpose()).cast<float>();
  RoundToHalf({weight.data(), static_cast<size_t>(weight.size())});
  Solution s;
  s.weight = weight.cast<double>();  // and the bias makes up for what rounding did to the mean
  s.bias = (m.y - s.weight.transpose() * m.x) / m.n;
  return s;
}

// Part of the variance that is not explained, mean over heads.
double Unexplained(const Moments& m, const Solution& s) {
  double sum = 0;
  for (Eigen::Index h = 0; h < s.weight.cols(); ++h) {
    const auto w = s.weight.col(h);
    const double b = s.bias[h];
    const double error = m.yy[h] - 2 * w.dot(m.xy.col(h)) - 2 * b * m.y[h] +
                         w.dot(m.xx.selfadjointView<Eigen::Lower>() * w) + 2 * b * w.dot(m.x) +
                         m.n * b * b;
    sum += error / std::max(m.yy[h] - m.y[h] * m.y[h] / m.n, 1e-12);
  }
  return sum / static_cast<double>(s.weight.cols());
}

}  // namespace

KvzapFit FitKvzapLinear(const KvzapShape& shape, const KvzapSplits& splits,
                        const KvzapTraining& training, const Progress& progress) {
  constexpr size_t kN = kPenalties.size();
  std::vector<std::array<KvzapLayer, kN>> layers(static_cast<size_t>(shape.n_layers));
  std::vector<std::array<double, kN>> unexplained(layers.size());
  ForEachLayer(shape.n_layers, training.n_threads, progress, [&](int layer) {
    const Eigen::RowVectorXf shift =
        HiddenRows(shape, splits.train.front(), layer).colwise().mean();
    const Moments train = Gather(shape, splits.train, layer, shift);
    const Moments validation = Gather(shape, splits.validation, layer, shift);
    for (size_t i = 0; i < kN; ++i) {
      const Solution s = Solve(train, kPenalties[i]);
      unexplained[layer][i] = Unexplained(validation, s);
      if (!std::isfinite(unexplained[layer][i])) {
        Fail(ErrorCode::kFormat, "the samples of layer {} are not finite numbers", layer);
      }
      KvzapLayer& l = layers[layer][i];
      const Eigen::MatrixXf weight = s.weight.cast<float>();  // columns are heads
      const Eigen::VectorXf bias =
          (s.bias - s.weight.transpose() * shift.cast<double>().transpose()).cast<float>();
      l.weight.assign(weight.data(), weight.data() + weight.size());
      l.bias.assign(bias.data(), bias.data() + bias.size());
    }
  });
  size_t best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < kN; ++i) {
    double sum = 0;
    for (const auto& layer : unexplained) sum += layer[i];
    if (sum < least) {
      least = sum;
      best = i;
    }
  }
  KvzapFit fit;
  fit.penalty = kPenalties[best];
  fit.surrogate.n_embd = shape.n_embd;
  fit.surrogate.n_kv_heads = shape.n_kv_heads;
  for (auto& layer : layers) fit.surrogate.layers.push_back(std::move(layer[best]));
  Finish(shape, splits, training.n_threads, fit);
  return fit;
}

}  // namespace pith
