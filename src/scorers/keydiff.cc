#include <Eigen/Core>

#include "scorers/methods.h"

namespace pith {
namespace {

using Row = Eigen::Map<const Eigen::VectorXf>;

class KeyDiff : public Scorer {
 public:
  Needs needs() const override { return {.whole_layers = true}; }

  void JudgeLayer(const LayerEvidence& evidence,
                  std::span<const std::span<float>> worth) const override {
    for (size_t h = 0; h < evidence.heads.size(); ++h) {
      const MatrixView<const float>& keys = evidence.heads[h].keys;
      const auto head_dim = static_cast<Eigen::Index>(keys.cols);
      Eigen::VectorXd sum = Eigen::VectorXd::Zero(head_dim);
      for (size_t i = 0; i < keys.rows; ++i) {
        sum += Row(keys.row(i), head_dim).stableNormalized().cast<double>();
      }
      const Eigen::VectorXf anchor = sum.stableNormalized().cast<float>();
      for (size_t i = 0; i < keys.rows; ++i) {
        worth[h][i] = -anchor.dot(Row(keys.row(i), head_dim).stableNormalized());
      }
    }
  }
};

}  // namespace

std::unique_ptr<Scorer> MakeKeyDiff(const Plan& /*plan*/, const ModelInfo& /*model*/) {
  return std::make_unique<KeyDiff>();
}

}  // namespace pith
