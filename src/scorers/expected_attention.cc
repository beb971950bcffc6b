#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "base/fail.h"
#include "scorers/dense.h"
#include "scorers/methods.h"

namespace pith {
namespace {

// Positions to come over which RoPE is averaged, kvpress's number.
constexpr int kFuturePositions = 512;

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Eigen::Index Index(size_t n) { return static_cast<Eigen::Index>(n); }

// The logit that queries to come give a key on average, were they normal: linear in the key by
// their mean, quadratic by their covariance (both [head_dim (, head_dim)], before RoPE).
class ExpectedLogit {
 public:
  ExpectedLogit(std::span<const float> mean, std::span<const float> covariance,
                const Rotation& future)
      : head_dim_(mean.size()) {
    // key . (covariance key / 2d + mean / sqrt d), with both turned as they will be on average.
    const Rows turned = Turned(covariance, future);
    std::vector<float> bias(mean.begin(), mean.end());
    future.Turn(bias.data());
    for (float& element : bias) element /= std::sqrt(static_cast<float>(head_dim_));
    if (covariance.size() == head_dim_) {
      TakePairs(turned, std::move(bias));
    } else {
      map_.emplace(std::span(turned.data(), static_cast<size_t>(turned.size())), bias);
    }
  }

  // logits: [keys.rows]
  void Give(const MatrixView<const float>& keys, std::span<float> logits) const {
    if (!map_) return GivePairs(keys, logits);
    std::vector<float> mapped(keys.rows * head_dim_);
    map_->Apply(keys, mapped.data(), head_dim_, 1);
    for (size_t i = 0; i < keys.rows; ++i) {
      logits[i] = Eigen::Map<const Eigen::VectorXf>(keys.row(i), Index(head_dim_))
                      .dot(Eigen::Map<const Eigen::VectorXf>(mapped.data() + i * head_dim_,
                                                             Index(head_dim_)));
    }
  }

 private:
  // R C R^T / 2d; C is symmetric.
  Rows Turned(std::span<const float> covariance, const Rotation& future) const {
    const Eigen::Index dim = Index(head_dim_);
    Rows turned = Rows::Zero(dim, dim);
    if (covariance.size() == head_dim_) {
      turned.diagonal() = Eigen::Map<const Eigen::VectorXf>(covariance.data(), dim);
    } else {
      turned = Eigen::Map<const Rows>(covariance.data(), dim, dim);
    }
    for (int side = 0; side < 2; ++side) {
      for (Eigen::Index i = 0; i < dim; ++i) future.Turn(turned.row(i).data());
      turned.transposeInPlace();
    }
    return turned / (2 * static_cast<float>(head_dim_));
  }

  // RoPE mixes two dimensions, so that of turned variances no more than pairs are left.
  void TakePairs(const Rows& turned, std::vector<float> bias) {
    bias_ = std::move(bias);
    for (Eigen::Index i = 0; i < turned.rows(); ++i) {
      own_.push_back(turned(i, i));
      Eigen::Index mate = i;
      for (Eigen::Index j = 0; j < turned.cols(); ++j) {
        if (j != i && turned(i, j) != 0) mate = j;
      }
      mates_.push_back(mate);
      crossed_.push_back(mate == i ? 0 : turned(i, mate));
    }
  }

  void GivePairs(const MatrixView<const float>& keys, std::span<float> logits) const {
    for (size_t i = 0; i < keys.rows; ++i) {
      const float* key = keys.row(i);
      float sum = 0;
      for (size_t d = 0; d < head_dim_; ++d) {
        sum += key[d] * (bias_[d] + own_[d] * key[d] + crossed_[d] * key[mates_[d]]);
      }
      logits[i] = sum;
    }
  }

  size_t head_dim_;
  std::optional<Dense> map_;                 // of a whole covariance; else
  std::vector<float> bias_, own_, crossed_;  // [head_dim]
  std::vector<Eigen::Index> mates_;          // [head_dim]
};

class ExpectedAttention : public Scorer {
 public:
  explicit ExpectedAttention(std::optional<QueryStatistics> statistics)
      : statistics_(std::move(statistics)) {}

  Needs needs() const override {
    return {
        .whole_layers = true, .query_moments = !statistics_, .future_positions = kFuturePositions};
  }

  void JudgeLayer(const LayerEvidence& evidence,
                  std::span<const std::span<float>> worth) const override {
    std::vector<float> logits;
    std::vector<double> paid;
    for (size_t h = 0; h < evidence.heads.size(); ++h) {
      const Entries& entries = evidence.heads[h];
      logits.resize(worth[h].size());
      paid.assign(worth[h].size(), 0.0);
      for (size_t g = 0; g < static_cast<size_t>(evidence.group); ++g) {
        Expected(evidence, h * evidence.group + g).Give(entries.keys, logits);
        AddSoftmax(entries.positions, evidence.n_sinks, logits, paid);
      }
      for (size_t i = 0; i < worth[h].size(); ++i) {
        const Eigen::Map<const Eigen::VectorXf> value(entries.values.row(i),
                                                      Index(entries.values.cols));
        worth[h][i] = entries.positions[i] < evidence.n_sinks
                          ? kUnjudged
                          : static_cast<float>(paid[i] / evidence.group * value.norm());
      }
    }
  }

 private:
  ExpectedLogit Expected(const LayerEvidence& evidence, size_t head) const {
    if (!statistics_) {
      const QueryMoments& moments = evidence.moments[head];
      return {moments.mean(), moments.Covariance(), evidence.future};
    }
    const auto dim = static_cast<size_t>(statistics_->head_dim);
    const size_t row = static_cast<size_t>(evidence.layer) * statistics_->n_heads + head;
    const size_t spread = statistics_->covariance.size() / statistics_->mean.size() * dim;
    return {std::span(statistics_->mean).subspan(row * dim, dim),
            std::span(statistics_->covariance).subspan(row * spread, spread), evidence.future};
  }

  // Sinks take part in no softmax: next to them nothing else would count.
  static void AddSoftmax(std::span<const int32_t> positions, int n_sinks,
                         std::span<const float> logits, std::span<double> paid) {
    float largest = -std::numeric_limits<float>::infinity();
    for (size_t i = 0; i < logits.size(); ++i) {
      if (positions[i] >= n_sinks) largest = std::max(largest, logits[i]);
    }
    double sum = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      if (positions[i] >= n_sinks) sum += std::exp(logits[i] - largest);
    }
    for (size_t i = 0; i < logits.size(); ++i) {
      if (positions[i] >= n_sinks) paid[i] += std::exp(logits[i] - largest) / sum;
    }
  }

  std::optional<QueryStatistics> statistics_;  // of the calibration; none: those of the session
};

}  // namespace

std::unique_ptr<Scorer> MakeExpected(const Plan& /*plan*/, const ModelInfo& /*model*/) {
  return std::make_unique<ExpectedAttention>(std::nullopt);
}

std::unique_ptr<Scorer> MakeExpectedCalibrated(const Plan& plan, const ModelInfo& model) {
  if (plan.calibration == nullptr || !plan.calibration->queries) {
    Fail(ErrorCode::kInvalidArgument,
         "the scorer expected_calibrated needs a calibration with mean and variance of the model's "
         "queries, but {}; \"pith calibrate -m MODEL -o X.pithcal\" makes one",
         plan.calibration == nullptr ? "there is no calibration" : "this one has none");
  }
  return std::make_unique<ExpectedAttention>(plan.calibration->QueriesFor(model));
}

}  // namespace pith
