#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "base/fail.h"
#include "scorers/dense.h"
#include "scorers/methods.h"

namespace pith {
namespace {

// Tokens whose hidden layer is computed at once.
constexpr size_t kBlock = 256;

class Kvzap : public Scorer {
 public:
  explicit Kvzap(const KvzapSurrogate& surrogate) {
    for (const KvzapLayer& layer : surrogate.layers) {
      Layer& target = layers_.emplace_back();
      if (!layer.bias_in.empty()) target.inner.emplace(layer.weight_in, layer.bias_in);
      target.outer.emplace(layer.weight, layer.bias);
    }
  }

  Needs needs() const override { return {.hidden_states = true}; }
  bool comparable_across_heads() const override { return true; }

  void ScoreHidden(const HiddenStates& hidden, std::span<float> worth) const override {
    const Layer& layer = layers_[hidden.layer];
    const MatrixView<const float>& rows = hidden.rows;
    if (!layer.inner) {
      layer.outer->Apply(rows, worth.data(), 1, rows.rows);
      return;
    }
    const size_t n_hidden = layer.inner->n_out();
    const size_t most = std::min(kBlock, rows.rows);
    const auto inner = std::make_unique_for_overwrite<float[]>(most * n_hidden);
    for (size_t begin = 0; begin < rows.rows; begin += most) {
      const size_t n = std::min(most, rows.rows - begin);
      layer.inner->Apply({rows.row(begin), n, rows.cols, rows.stride}, inner.get(), n_hidden, 1);
      Gelu({inner.get(), n * n_hidden});
      layer.outer->Apply({inner.get(), n, n_hidden, n_hidden}, worth.data() + begin, 1, rows.rows);
    }
  }

 private:
  struct Layer {
    std::optional<Dense> inner;  // of a network
    std::optional<Dense> outer;
  };

  std::vector<Layer> layers_;
};

// A surrogate that was not read from a file may be of any size.
void CheckSizes(const KvzapSurrogate& surrogate) {
  const auto n_embd = static_cast<size_t>(surrogate.n_embd);
  const auto n_hidden = static_cast<size_t>(surrogate.n_hidden);
  const auto n_heads = static_cast<size_t>(surrogate.n_kv_heads);
  for (size_t i = 0; i < surrogate.layers.size(); ++i) {
    const KvzapLayer& layer = surrogate.layers[i];
    if (layer.weight_in.size() != n_hidden * n_embd || layer.bias_in.size() != n_hidden ||
        layer.weight.size() != n_heads * (n_hidden > 0 ? n_hidden : n_embd) ||
        layer.bias.size() != n_heads) {
      Fail(ErrorCode::kInvalidArgument,
           "layer {} of the surrogate has weights of {} and {} and biases of {} and {} values, "
           "which is not {} -> {} -> {} (0: no hidden layer)",
           i, layer.weight_in.size(), layer.weight.size(), layer.bias_in.size(), layer.bias.size(),
           n_embd, n_hidden, n_heads);
    }
  }
}

}  // namespace

std::unique_ptr<Scorer> MakeKvzap(const Plan& plan, const ModelInfo& model) {
  if (plan.calibration == nullptr || !plan.calibration->kvzap) {
    Fail(ErrorCode::kInvalidArgument,
         "the scorer kvzap needs a calibration of the model with a surrogate, but {}; \"pith "
         "calibrate --kvzap linear -m MODEL -o X.pithcal\" makes one",
         plan.calibration == nullptr ? "there is no calibration" : "this one has none");
  }
  plan.calibration->CheckFits(model);
  CheckSizes(*plan.calibration->kvzap);
  return std::make_unique<Kvzap>(*plan.calibration->kvzap);
}

}  // namespace pith
