#include "scorers/methods.h"

namespace pith {
namespace {

class StreamingLlm : public Scorer {
 public:
  bool comparable_across_heads() const override { return true; }

  void Score(const Entries& entries, std::span<float> worth) const override {
    for (size_t i = 0; i < worth.size(); ++i) {
      worth[i] = static_cast<float>(entries.positions[i]);  // exact below 2^24
    }
  }
};

}  // namespace

std::unique_ptr<Scorer> MakeStreamingLlm(const Plan& /*plan*/, const ModelInfo& /*model*/) {
  return std::make_unique<StreamingLlm>();
}

}  // namespace pith
