#include <Eigen/Core>
#include <utility>
#include <vector>

#include "base/fail.h"
#include "scorers/methods.h"

namespace pith {
namespace {

class QFilter : public Scorer {
 public:
  QFilter(std::vector<float> filters, const ModelInfo& model)
      : filters_(std::move(filters)), n_kv_heads_(model.n_kv_heads), head_dim_(model.head_dim) {}

  void Score(const Entries& entries, std::span<float> worth) const override {
    const size_t head = static_cast<size_t>(entries.layer) * n_kv_heads_ + entries.kv_head;
    const Eigen::Map<const Eigen::VectorXf> filter(filters_.data() + head * head_dim_, head_dim_);
    for (size_t i = 0; i < worth.size(); ++i) {
      worth[i] = -filter.dot(Eigen::Map<const Eigen::VectorXf>(entries.keys.row(i), head_dim_));
    }
  }

 private:
  std::vector<float> filters_;  // [n_layers, n_kv_heads, head_dim], negated, in the model's layout
  int n_kv_heads_;
  int head_dim_;
};

}  // namespace

std::unique_ptr<Scorer> MakeQFilter(const Plan& plan, const ModelInfo& model) {
  if (plan.calibration == nullptr) {
    Fail(ErrorCode::kInvalidArgument,
         "the scorer qfilter needs a calibration of the model; \"pith calibrate -m MODEL -o "
         "X.pithcal\" makes one");
  }
  if (!plan.calibration->has_filters()) {
    Fail(ErrorCode::kInvalidArgument,
         "the scorer qfilter needs Q-Filters, but the calibration has only a surrogate for kvzap "
         "or query statistics");
  }
  plan.calibration->CheckFits(model);
  return std::make_unique<QFilter>(plan.calibration->FiltersFor(model), model);
}

}  // namespace pith
