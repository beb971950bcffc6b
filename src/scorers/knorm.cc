#include <Eigen/Core>

#include "scorers/methods.h"

namespace pith {
namespace {

class Knorm : public Scorer {
 public:
  void Score(const Entries& entries, std::span<float> worth) const override {
    const auto head_dim = static_cast<Eigen::Index>(entries.keys.cols);
    for (size_t i = 0; i < worth.size(); ++i) {
      worth[i] = -Eigen::Map<const Eigen::VectorXf>(entries.keys.row(i), head_dim).norm();
    }
  }
};

}  // namespace

std::unique_ptr<Scorer> MakeKnorm(const Plan& /*plan*/, const ModelInfo& /*model*/) {
  return std::make_unique<Knorm>();
}

}  // namespace pith
