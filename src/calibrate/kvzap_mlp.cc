#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <random>

#include "base/fail.h"
#include "calibrate/kvzap_layers.h"

namespace pith {
namespace {

constexpr int kBatch = 512;
constexpr double kLearningRate = 5e-3;
constexpr double kClipNorm = 1.0;
constexpr double kDecay = 0.01;
constexpr double kBeta1 = 0.9;
constexpr double kBeta2 = 0.999;
constexpr double kEpsilon = 1e-8;
constexpr int kPatience = 5;  // epochs without a better one

using Column = Eigen::VectorXf;

// One matrix or vector and what AdamW (arXiv 1711.05101) knows of it.
struct Parameter {
  RowMatrix value, gradient, mean, square;

  void Resize(Eigen::Index rows, Eigen::Index cols) {
    value = gradient = mean = square = RowMatrix::Zero(rows, cols);
  }
  void Step(double rate, int step) {
    const float scale1 = static_cast<float>(1 / (1 - std::pow(kBeta1, step)));
    const float scale2 = static_cast<float>(1 / (1 - std::pow(kBeta2, step)));
    mean += static_cast<float>(1 - kBeta1) * (gradient - mean);
    square += static_cast<float>(1 - kBeta2) * (gradient.cwiseAbs2() - square);
    value *= static_cast<float>(1 - rate * kDecay);
    value.array() -= static_cast<float>(rate) * scale1 * mean.array() /
                     ((scale2 * square.array()).sqrt() + static_cast<float>(kEpsilon));
  }
};

// Uniform in +-bound from the generator's own numbers, which are the same everywhere.
void Randomise(RowMatrix& values, float bound, std::mt19937_64& random) {
  for (Eigen::Index i = 0; i < values.size(); ++i) {
    const double unit = static_cast<double>(random() >> 11) * 0x1p-53;
    values.data()[i] = bound * static_cast<float>(2 * unit - 1);
  }
}

struct Sample {
  const KvzapShard* shard = nullptr;
  int row = 0;
};

class Network {
 public:
  Network(const KvzapShape& shape, int n_hidden, int layer, std::mt19937_64& random)
      : shape_(shape), layer_(layer) {
    w1_.Resize(n_hidden, shape.n_embd);
    b1_.Resize(1, n_hidden);
    w2_.Resize(shape.n_kv_heads, n_hidden);
    b2_.Resize(1, shape.n_kv_heads);
    const float bound1 = 1 / std::sqrt(static_cast<float>(shape.n_embd));
    const float bound2 = 1 / std::sqrt(static_cast<float>(n_hidden));
    Randomise(w1_.value, bound1, random);
    Randomise(b1_.value, bound1, random);
    Randomise(w2_.value, bound2, random);
  }

  // Means and deviations of the training samples; one deviation for all elements of hidden states.
  void Standardise(const std::vector<KvzapShard>& shards) {
    Eigen::VectorXd x = Eigen::VectorXd::Zero(shape_.n_embd);
    Eigen::VectorXd y = Eigen::VectorXd::Zero(shape_.n_kv_heads);
    Eigen::VectorXd yy = y;
    double xx = 0;
    double n = 0;
    for (const KvzapShard& shard : shards) {
      const Eigen::MatrixXd rows = HiddenRows(shape_, shard, layer_).cast<double>();
      const Eigen::MatrixXd want = Targets(shape_, shard, layer_).cast<double>();
      x += rows.colwise().sum().transpose();
      xx += rows.squaredNorm();
      y += want.colwise().sum().transpose();
      yy += want.cwiseAbs2().colwise().sum().transpose();
      n += static_cast<double>(rows.rows());
    }
    x /= n;
    y /= n;
    const double variance = (xx / n - x.squaredNorm()) / shape_.n_embd;
    x_mean_ = x.cast<float>();
    x_scale_ = static_cast<float>(1 / std::sqrt(std::max(variance, 1e-12)));
    y_mean_ = y.cast<float>();
    y_deviation_ = (yy / n - y.cwiseAbs2()).cwiseMax(1e-12).cwiseSqrt().cast<float>();
  }

  void Train(std::span<const Sample> batch, double rate, int step) {
    Load(batch);
    Forward();
    const auto n = static_cast<float>(batch.size() * static_cast<size_t>(shape_.n_kv_heads));
    const RowMatrix slope = (2 / n) * (out_ - want_);
    w2_.gradient.noalias() = slope.transpose() * active_;
    b2_.gradient = slope.colwise().sum();
    RowMatrix inner = slope * w2_.value;
    inner.array() *= before_.unaryExpr(&ExactGeluSlope).array();
    w1_.gradient.noalias() = inner.transpose() * in_;
    b1_.gradient = inner.colwise().sum();
    double norm = 0;
    for (Parameter* p : All()) norm += p->gradient.cast<double>().squaredNorm();
    norm = std::sqrt(norm);
    for (Parameter* p : All()) {
      if (norm > kClipNorm) p->gradient *= static_cast<float>(kClipNorm / norm);
      p->Step(rate, step);
    }
  }

  // Mean squared error of standardised targets.
  double Error(const std::vector<KvzapShard>& shards) {
    double sum = 0;
    double n = 0;
    for (const KvzapShard& shard : shards) {
      std::vector<Sample> all;
      for (int i = 0; i < shard.n_rows(); ++i) all.push_back({&shard, i});
      Load(all);
      Forward();
      sum += (out_ - want_).cast<double>().squaredNorm();
      n += static_cast<double>(out_.size());
    }
    return sum / n;
  }

  // The weights as they apply to raw hidden states and give raw targets.
  KvzapLayer Folded() const {
    RowMatrix w1 = w1_.value * x_scale_;
    RoundToHalf({w1.data(), static_cast<size_t>(w1.size())});
    const Column b1 = b1_.value.transpose() - w1 * x_mean_;
    RowMatrix w2 = y_deviation_.asDiagonal() * w2_.value;
    RoundToHalf({w2.data(), static_cast<size_t>(w2.size())});
    const Column b2 = y_deviation_.cwiseProduct(b2_.value.transpose()) + y_mean_;
    return {{w1.data(), w1.data() + w1.size()},
            {b1.data(), b1.data() + b1.size()},
            {w2.data(), w2.data() + w2.size()},
            {b2.data(), b2.data() + b2.size()}};
  }

 private:
  std::array<Parameter*, 4> All() { return {&w1_, &b1_, &w2_, &b2_}; }

  void Load(std::span<const Sample> samples) {
    const auto n = static_cast<Eigen::Index>(samples.size());
    in_.resize(n, shape_.n_embd);
    want_.resize(n, shape_.n_kv_heads);
    for (Eigen::Index i = 0; i < n; ++i) {
      const Sample& sample = samples[static_cast<size_t>(i)];
      sample.shard->Hidden(layer_, sample.row, 1, in_.row(i).data());
      const std::span<const float> scores = sample.shard->LogScores(layer_);
      for (int h = 0; h < shape_.n_kv_heads; ++h) {
        want_(i, h) = scores[size_t{1} * h * sample.shard->n_rows() + sample.row];
      }
    }
    in_ = (in_.rowwise() - x_mean_.transpose()) * x_scale_;
    want_.rowwise() -= y_mean_.transpose();
    want_.array().rowwise() /= y_deviation_.transpose().array();
  }

  void Forward() {
    before_.noalias() = in_ * w1_.value.transpose();
    before_.rowwise() += b1_.value.row(0);
    active_ = before_.unaryExpr(&ExactGelu);
    out_.noalias() = active_ * w2_.value.transpose();
    out_.rowwise() += b2_.value.row(0);
  }

  KvzapShape shape_;
  int layer_;
  Parameter w1_, b1_, w2_, b2_;
  Column x_mean_, y_mean_, y_deviation_;
  float x_scale_ = 1;
  RowMatrix in_, want_, before_, active_, out_;  // of one batch
};

KvzapLayer TrainLayer(const KvzapShape& shape, const KvzapSplits& splits,
                      const KvzapTraining& training, int n_hidden, int layer) {
  std::mt19937_64 random(training.seed + 0x9e3779b97f4a7c15 * (static_cast<uint64_t>(layer) + 1));
  Network network(shape, n_hidden, layer, random);
  network.Standardise(splits.train);
  std::vector<Sample> samples;
  for (const KvzapShard& shard : splits.train) {
    for (int i = 0; i < shard.n_rows(); ++i) samples.push_back({&shard, i});
  }
  const size_t n_batches = (samples.size() + kBatch - 1) / kBatch;
  const double n_steps = static_cast<double>(n_batches) * training.epochs;
  KvzapLayer best;
  double least = std::numeric_limits<double>::infinity();
  int step = 0;
  int since_best = 0;
  for (int epoch = 0; epoch < training.epochs && since_best < kPatience; ++epoch) {
    for (size_t i = samples.size(); i > 1; --i) std::swap(samples[i - 1], samples[random() % i]);
    for (size_t begin = 0; begin < samples.size(); begin += kBatch) {
      const double rate = kLearningRate * 0.5 * (1 + std::cos(std::numbers::pi * step / n_steps));
      const size_t n = std::min<size_t>(kBatch, samples.size() - begin);
      network.Train(std::span(samples).subspan(begin, n), rate, ++step);
    }
    const double error = network.Error(splits.validation);
    ++since_best;
    if (error < least) {
      least = error;
      best = network.Folded();
      since_best = 0;
    }
  }
  if (!std::isfinite(least)) {
    Fail(ErrorCode::kFormat, "the samples of layer {} are not finite numbers", layer);
  }
  return best;
}

}  // namespace

KvzapFit FitKvzapMlp(const KvzapShape& shape, const KvzapSplits& splits,
                     const KvzapTraining& training, const Progress& progress) {
  if (training.epochs < 1) {
    Fail(ErrorCode::kInvalidArgument, "{} epochs, expected at least 1", training.epochs);
  }
  const int n_hidden = training.n_hidden > 0 ? training.n_hidden : std::max(1, shape.n_embd / 8);
  KvzapFit fit;
  fit.surrogate.n_embd = shape.n_embd;
  fit.surrogate.n_kv_heads = shape.n_kv_heads;
  fit.surrogate.n_hidden = n_hidden;
  fit.surrogate.layers.resize(static_cast<size_t>(shape.n_layers));
  ForEachLayer(shape.n_layers, training.n_threads, progress, [&](int layer) {
    fit.surrogate.layers[layer] = TrainLayer(shape, splits, training, n_hidden, layer);
  });
  Finish(shape, splits, training.n_threads, fit);
  return fit;
}

}  // namespace pith
