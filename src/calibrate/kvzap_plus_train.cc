#include "calibrate/kvzap_plus_train.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "base/fail.h"
#include "calibrate/kvzap_layers.h"

namespace pith {
namespace {

// Relative to the variance of each input.
constexpr std::array kPenalties = {1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1};

// filter . key, ln |key|, ln |value|
constexpr int kOwn = 3;
// What the repeat found, what later queries looked for.
constexpr int kTargets = 2;

// Keys of the rows that have both targets. [n_seen, head_dim]
RowMatrix SeenKeys(const KvzapShape& shape, const KvzapShard& shard, int layer, int kv_head) {
  RowMatrix keys(shard.n_seen(), shape.head_dim);
  shard.Keys(layer, kv_head, shard.n_seen(), keys.data());
  return keys;
}

// ln |key|, ln |value|. [n_seen, 2]
RowMatrix LogNorms(const KvzapShard& shard, int layer, int kv_head, const RowMatrix& keys) {
  RowMatrix norms(keys.rows(), 2);
  norms.col(0) = keys.rowwise().norm().cwiseMax(std::numeric_limits<float>::min()).array().log();
  norms.col(1) =
      Eigen::Map<const Eigen::VectorXf>(shard.LogValueNorms(layer, kv_head).data(), keys.rows());
  return norms;
}

// Inputs of one head beside the hidden state. [n_seen, kOwn]
RowMatrix OwnInputs(const KvzapShape& shape, const KvzapShard& shard, int layer, int kv_head,
                    std::span<const float> filters) {
  const RowMatrix keys = SeenKeys(shape, shard, layer, kv_head);
  const Eigen::Map<const Eigen::VectorXf> filter(
      filters.data() + (size_t{1} * layer * shape.n_kv_heads + kv_head) * shape.head_dim,
      shape.head_dim);
  RowMatrix rows(keys.rows(), kOwn);
  rows << keys * filter, LogNorms(shard, layer, kv_head, keys);
  return rows;
}

RowMatrix SeenHidden(const KvzapShape& shape, const KvzapShard& shard, int layer) {
  RowMatrix rows(shard.n_seen(), shape.n_embd);
  shard.Hidden(layer, 0, shard.n_seen(), rows.data());
  return rows;
}

// [n_seen, kTargets]
Eigen::MatrixXf HeadTargets(const KvzapShard& shard, int layer, int kv_head) {
  Eigen::MatrixXf targets(shard.n_seen(), kTargets);
  targets.col(0) =
      Eigen::Map<const Eigen::VectorXf>(shard.LogRepeat(layer, kv_head).data(), shard.n_seen());
  targets.col(1) =
      Eigen::Map<const Eigen::VectorXf>(shard.LogReceived(layer, kv_head).data(), shard.n_seen());
  return targets;
}

// Sums and products of all inputs, the hidden state first, and the targets of one head. Inputs are
// taken from a shift, so that squares lose no digits.
struct Moments {
  double n = 0;
  Eigen::VectorXd x;   // [n_in]
  Eigen::MatrixXd xx;  // [n_in, n_in]
  Eigen::Vector2d y = Eigen::Vector2d::Zero();
  Eigen::Matrix<double, Eigen::Dynamic, kTargets> xy;
  Eigen::Vector2d yy = Eigen::Vector2d::Zero();
};

using Shifts = std::vector<Eigen::RowVectorXf>;  // of every head, [n_embd + kOwn]

// Of the first shard.
Shifts MakeShifts(const KvzapShape& shape, const KvzapShard& shard, int layer,
                  std::span<const float> filters) {
  const Eigen::RowVectorXf hidden = SeenHidden(shape, shard, layer).colwise().mean();
  Shifts shifts;
  for (int h = 0; h < shape.n_kv_heads; ++h) {
    shifts.emplace_back(shape.n_embd + kOwn);
    shifts.back() << hidden, OwnInputs(shape, shard, layer, h, filters).colwise().mean();
  }
  return shifts;
}

// The products of the hidden state with itself serve all heads.
std::vector<Moments> Gather(const KvzapShape& shape, const std::vector<KvzapShard>& shards,
                            int layer, std::span<const float> filters, const Shifts& shifts) {
  const Eigen::Index n_in = shape.n_embd + kOwn;
  Eigen::MatrixXd hidden_square = Eigen::MatrixXd::Zero(shape.n_embd, shape.n_embd);
  std::vector<Moments> heads(static_cast<size_t>(shape.n_kv_heads));
  for (Moments& m : heads) {
    m.x = Eigen::VectorXd::Zero(n_in);
    m.xx = Eigen::MatrixXd::Zero(n_in, n_in);
    m.xy = Eigen::MatrixXd::Zero(n_in, kTargets);
  }
  for (const KvzapShard& shard : shards) {
    RowMatrix hidden = SeenHidden(shape, shard, layer);
    hidden.rowwise() -= shifts.front().head(shape.n_embd);
    // In f32 within a shard, whose sums are short; in double over all of them.
    Eigen::MatrixXf square = Eigen::MatrixXf::Zero(shape.n_embd, shape.n_embd);
    square.selfadjointView<Eigen::Lower>().rankUpdate(hidden.transpose());
    hidden_square.triangularView<Eigen::Lower>() += square.cast<double>();
    for (int h = 0; h < shape.n_kv_heads; ++h) {
      Moments& m = heads[static_cast<size_t>(h)];
      RowMatrix own = OwnInputs(shape, shard, layer, h, filters);
      own.rowwise() -= shifts[static_cast<size_t>(h)].tail(kOwn);
      const Eigen::MatrixXf want = HeadTargets(shard, layer, h);
      m.n += static_cast<double>(want.rows());
      m.x.head(shape.n_embd) += hidden.colwise().sum().transpose().cast<double>();
      m.x.tail(kOwn) += own.colwise().sum().transpose().cast<double>();
      m.xx.bottomLeftCorner(kOwn, shape.n_embd) += (own.transpose() * hidden).cast<double>();
      m.xx.bottomRightCorner(kOwn, kOwn) += (own.transpose() * own).cast<double>();
      m.xy.topRows(shape.n_embd) += (hidden.transpose() * want).cast<double>();
      m.xy.bottomRows(kOwn) += (own.transpose() * want).cast<double>();
      m.y += want.cast<double>().colwise().sum().transpose();
      m.yy += want.cast<double>().colwise().squaredNorm().transpose();
    }
  }
  for (Moments& m : heads) {
    m.xx.topLeftCorner(shape.n_embd, shape.n_embd) = hidden_square;
    m.xx = Eigen::MatrixXd(m.xx.selfadjointView<Eigen::Lower>());
  }
  return heads;
}

struct Solution {
  Eigen::MatrixXd weight;  // [n_in, kTargets], f16 numbers
  Eigen::Vector2d bias;    // of shifted inputs
};

Solution Solve(const Moments& m, double penalty) {
  const Eigen::VectorXd mean = m.x / m.n;
  Eigen::MatrixXd covariance = m.xx / m.n - mean * mean.transpose();
  // An input that never changes, such as the norm of a normed key, gets no weight.
  const double least = 1e-9 * covariance.diagonal().mean() + 1e-30;
  covariance.diagonal().array() = covariance.diagonal().array().max(0) * (1 + penalty) + least;
  const Eigen::LLT<Eigen::MatrixXd> factor(covariance);
  Eigen::MatrixXf weight = factor.solve(m.xy / m.n - mean * (m.y / m.n).transpose()).cast<float>();
  RoundToHalf({weight.data(), static_cast<size_t>(weight.size())});
  Solution s;
  s.weight = weight.cast<double>();  // and the bias makes up for what rounding did to the mean
  s.bias = (m.y - s.weight.transpose() * m.x) / m.n;
  return s;
}

// Part of the variance that is not explained, sum over both targets.
double Unexplained(const Moments& m, const Solution& s) {
  double sum = 0;
  for (int t = 0; t < kTargets; ++t) {
    const auto w = s.weight.col(t);
    const double b = s.bias[t];
    const double error = m.yy[t] - 2 * w.dot(m.xy.col(t)) - 2 * b * m.y[t] + w.dot(m.xx * w) +
                         2 * b * w.dot(m.x) + m.n * b * b;
    sum += error / std::max(m.yy[t] - m.y[t] * m.y[t] / m.n, 1e-12);
  }
  return sum;
}

// The projection's weight becomes one for every dimension of the key.
KvzapPlusLayer LayerOf(const KvzapShape& shape, int index, const std::vector<Solution>& heads,
                       const Shifts& shifts, std::span<const float> filters) {
  KvzapPlusLayer layer;
  const size_t head_dim = static_cast<size_t>(shape.head_dim);
  for (int t = 0; t < kTargets; ++t) {
    for (size_t h = 0; h < heads.size(); ++h) {
      const Eigen::VectorXd w = heads[h].weight.col(t);
      for (Eigen::Index i = 0; i < shape.n_embd; ++i) {
        layer.weight.push_back(static_cast<float>(w[i]));
      }
      const auto filter =
          filters.subspan((static_cast<size_t>(index) * heads.size() + h) * head_dim, head_dim);
      for (const float f : filter) {
        layer.key_weight.push_back(static_cast<float>(w[shape.n_embd]) * f);
      }
      for (int i = 1; i < kOwn; ++i) {
        layer.norm_weight.push_back(static_cast<float>(w[shape.n_embd + i]));
      }
      layer.bias.push_back(
          static_cast<float>(heads[h].bias[t] - w.dot(shifts[h].transpose().cast<double>())));
    }
  }
  RoundToHalf(layer.key_weight);
  return layer;
}

// [n_seen, kTargets]
Eigen::MatrixXf Predict(const KvzapShape& shape, const KvzapPlusLayer& layer,
                        const KvzapShard& shard, int index, int kv_head, const RowMatrix& hidden) {
  const RowMatrix keys = SeenKeys(shape, shard, index, kv_head);
  const RowMatrix norms = LogNorms(shard, index, kv_head, keys);
  Eigen::MatrixXf out(keys.rows(), kTargets);
  for (int t = 0; t < kTargets; ++t) {
    const size_t row = size_t{1} * t * shape.n_kv_heads + kv_head;
    const auto part = [&](const std::vector<float>& weights, int n) {
      return Eigen::Map<const Eigen::VectorXf>(weights.data() + row * n, n);
    };
    out.col(t) =
        (hidden * part(layer.weight, shape.n_embd) + keys * part(layer.key_weight, shape.head_dim) +
         norms * part(layer.norm_weight, 2))
            .array() +
        layer.bias[row];
  }
  return out;
}

// R2 on the held-out shards; then the second predictions are raised by `shift`, and quantiles are
// taken of the worths that these shards and those for validation get.
void Finish(const KvzapShape& shape, const KvzapSplits& splits, int n_threads, double shift,
            KvzapPlusFit& fit) {
  const size_t n_maps = size_t{1} * shape.n_layers * shape.n_kv_heads;
  std::vector<std::vector<float>> given(static_cast<size_t>(shape.n_layers));
  fit.r2.assign(kTargets * n_maps, 0);
  ForEachLayer(shape.n_layers, n_threads, {}, [&](int layer) {
    std::vector<Moments> heads(static_cast<size_t>(shape.n_kv_heads));  // of targets alone
    Eigen::ArrayXXd errors = Eigen::ArrayXXd::Zero(kTargets, shape.n_kv_heads);
    const auto predict = [&](const KvzapShard& shard, bool is_held_out) {
      const RowMatrix hidden = SeenHidden(shape, shard, layer);
      for (int h = 0; h < shape.n_kv_heads; ++h) {
        const Eigen::MatrixXf predicted =
            Predict(shape, fit.surrogate.layers[layer], shard, layer, h, hidden);
        const Eigen::VectorXf worth = predicted.col(0).cwiseMax(
            (predicted.col(1).array() + static_cast<float>(shift)).matrix());
        given[layer].insert(given[layer].end(), worth.data(), worth.data() + worth.size());
        if (!is_held_out) continue;
        const Eigen::MatrixXd want = HeadTargets(shard, layer, h).cast<double>();
        Moments& m = heads[static_cast<size_t>(h)];
        m.n += static_cast<double>(want.rows());
        m.y += want.colwise().sum().transpose();
        m.yy += want.colwise().squaredNorm().transpose();
        errors.col(h) +=
            (want - predicted.cast<double>()).colwise().squaredNorm().transpose().array();
      }
    };
    for (const KvzapShard& shard : splits.validation) predict(shard, false);
    for (const KvzapShard& shard : splits.held_out) predict(shard, true);
    for (int t = 0; t < kTargets; ++t) {
      for (int h = 0; h < shape.n_kv_heads; ++h) {
        const Moments& m = heads[static_cast<size_t>(h)];
        fit.r2[t * n_maps + size_t{1} * layer * shape.n_kv_heads + h] =
            static_cast<float>(1 - errors(t, h) / std::max(m.yy[t] - m.y[t] * m.y[t] / m.n, 1e-12));
      }
    }
  });
  fit.surrogate.quantiles = QuantilesOf(given);
  for (KvzapPlusLayer& layer : fit.surrogate.layers) {
    for (size_t h = 0; h < static_cast<size_t>(shape.n_kv_heads); ++h) {
      layer.bias[static_cast<size_t>(shape.n_kv_heads) + h] += static_cast<float>(shift);
    }
  }
}

// What makes the mean of the second target that of the first, over all layers and heads: how they
// compare otherwise depends on how much a model's values write.
double MeanShift(const KvzapShape& shape, const std::vector<KvzapShard>& shards) {
  double sum = 0;
  double n = 0;
  for (const KvzapShard& shard : shards) {
    for (int layer = 0; layer < shape.n_layers; ++layer) {
      for (int h = 0; h < shape.n_kv_heads; ++h) {
        const Eigen::MatrixXd targets = HeadTargets(shard, layer, h).cast<double>();
        sum += targets.col(0).sum() - targets.col(1).sum();
        n += static_cast<double>(targets.rows());
      }
    }
  }
  return sum / n;
}

}  // namespace

KvzapPlusFit FitKvzapPlus(const KvzapShape& shape, const KvzapSplits& splits,
                          std::span<const float> filters, const KvzapTraining& training,
                          const Progress& progress) {
  for (const auto* shards : {&splits.train, &splits.validation, &splits.held_out}) {
    for (const KvzapShard& shard : *shards) {
      if (shard.n_seen() == 0) {
        Fail(ErrorCode::kMismatch,
             "a prompt's samples hold no keys, or none that is seen from {} tokens on: kvzap+ "
             "needs an empty folder for new samples, and longer prompts",
             kReceivedDistance);
      }
    }
  }
  constexpr size_t kN = kPenalties.size();
  std::vector<std::array<KvzapPlusLayer, kN>> layers(static_cast<size_t>(shape.n_layers));
  std::vector<std::array<double, kN>> unexplained(layers.size());
  ForEachLayer(shape.n_layers, training.n_threads, progress, [&](int layer) {
    const Shifts shifts = MakeShifts(shape, splits.train.front(), layer, filters);
    const std::vector<Moments> train = Gather(shape, splits.train, layer, filters, shifts);
    const std::vector<Moments> validation =
        Gather(shape, splits.validation, layer, filters, shifts);
    for (size_t i = 0; i < kN; ++i) {
      std::vector<Solution> heads;
      unexplained[layer][i] = 0;
      for (size_t h = 0; h < train.size(); ++h) {
        heads.push_back(Solve(train[h], kPenalties[i]));
        unexplained[layer][i] += Unexplained(validation[h], heads.back());
      }
      if (!std::isfinite(unexplained[layer][i])) {
        Fail(ErrorCode::kFormat, "the samples of layer {} are not finite numbers", layer);
      }
      layers[layer][i] = LayerOf(shape, layer, heads, shifts, filters);
    }
  });
  std::array<double, kN> sum{};
  for (const auto& layer : unexplained) {
    for (size_t i = 0; i < kN; ++i) sum[i] += layer[i];
  }
  const auto best = static_cast<size_t>(std::min_element(sum.begin(), sum.end()) - sum.begin());

  KvzapPlusFit fit;
  fit.penalty = kPenalties[best];
  fit.surrogate.n_embd = shape.n_embd;
  fit.surrogate.n_kv_heads = shape.n_kv_heads;
  fit.surrogate.head_dim = shape.head_dim;
  for (auto& layer : layers) fit.surrogate.layers.push_back(std::move(layer[best]));
  Finish(shape, splits, training.n_threads, MeanShift(shape, splits.train), fit);
  return fit;
}

}  // namespace pith
