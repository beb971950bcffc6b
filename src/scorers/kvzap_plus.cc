#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "base/fail.h"
#include "scorers/dense.h"
#include "scorers/methods.h"

namespace pith {
namespace {

using Row = Eigen::Map<const Eigen::VectorXf>;

// The logarithm of nothing is that of the smallest normal float.
float LogNorm(const Row& row) {
  return 0.5f * std::log(std::max(row.squaredNorm(), std::numeric_limits<float>::min()));
}

class KvzapPlus : public Scorer {
 public:
  // Key weights in the model's layout.
  explicit KvzapPlus(KvzapPlusSurrogate surrogate)
      : n_heads_(surrogate.n_kv_heads), head_dim_(surrogate.head_dim) {
    for (KvzapPlusLayer& layer : surrogate.layers) {
      layers_.push_back({Dense(layer.weight, layer.bias), std::move(layer.key_weight),
                         std::move(layer.norm_weight)});
    }
  }

  Needs needs() const override { return {.hidden_states = true}; }
  bool comparable_across_heads() const override { return true; }

  void ScoreHidden(const HiddenStates& hidden, std::span<float> worth) const override {
    const Layer& layer = layers_[static_cast<size_t>(hidden.layer)];
    const size_t n = hidden.rows.rows;
    const auto both = std::make_unique_for_overwrite<float[]>(2 * n_heads_ * n);
    layer.hidden.Apply(hidden.rows, both.get(), 1, n);
    const auto size = static_cast<Eigen::Index>(head_dim_);
    for (size_t h = 0; h < n_heads_; ++h) {
      for (size_t i = 0; i < n; ++i) {
        const Row key(hidden.keys.row(i) + h * head_dim_, size);
        const float log_key = LogNorm(key);
        const float log_value = LogNorm(Row(hidden.values.row(i) + h * head_dim_, size));
        const auto predict = [&](size_t row) {
          const float* norm_weight = layer.norm_weight.data() + 2 * row;
          return both[row * n + i] + Row(layer.key_weight.data() + row * head_dim_, size).dot(key) +
                 norm_weight[0] * log_key + norm_weight[1] * log_value;
        };
        worth[h * n + i] = std::max(predict(h), predict(n_heads_ + h));
      }
    }
  }

 private:
  struct Layer {
    Dense hidden;
    std::vector<float> key_weight;
    std::vector<float> norm_weight;
  };

  std::vector<Layer> layers_;
  size_t n_heads_;
  size_t head_dim_;
};

// A surrogate that was not read from a file may be of any size.
void CheckSizes(const KvzapPlusSurrogate& surrogate) {
  const size_t n_rows = 2 * static_cast<size_t>(surrogate.n_kv_heads);
  for (size_t i = 0; i < surrogate.layers.size(); ++i) {
    const KvzapPlusLayer& layer = surrogate.layers[i];
    if (layer.weight.size() != n_rows * static_cast<size_t>(surrogate.n_embd) ||
        layer.key_weight.size() != n_rows * static_cast<size_t>(surrogate.head_dim) ||
        layer.norm_weight.size() != n_rows * 2 || layer.bias.size() != n_rows) {
      Fail(ErrorCode::kInvalidArgument,
           "layer {} of the kvzap+ surrogate has {}, {}, {} and {} values, expected {} rows of {}, "
           "{}, 2 and 1",
           i, layer.weight.size(), layer.key_weight.size(), layer.norm_weight.size(),
           layer.bias.size(), n_rows, surrogate.n_embd, surrogate.head_dim);
    }
  }
}

}  // namespace

std::unique_ptr<Scorer> MakeKvzapPlus(const Plan& plan, const ModelInfo& model) {
  if (plan.calibration == nullptr || !plan.calibration->kvzap_plus) {
    Fail(ErrorCode::kInvalidArgument,
         "the scorer kvzap+ needs a calibration of the model with its surrogate, but {}; \"pith "
         "calibrate --kvzap plus -m MODEL -o X.pithcal\" makes one",
         plan.calibration == nullptr ? "there is no calibration" : "this one has none");
  }
  plan.calibration->CheckFits(model);
  CheckSizes(*plan.calibration->kvzap_plus);
  return std::make_unique<KvzapPlus>(plan.calibration->KvzapPlusFor(model));
}

}  // namespace pith
