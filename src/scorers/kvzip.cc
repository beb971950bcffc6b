#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "scorers/methods.h"

namespace pith {
namespace {

class Kvzip : public Scorer {
 public:
  explicit Kvzip(bool output_norms) : output_norms_(output_norms) {}

  Needs needs() const override { return {.repeat_pass = true, .output_norms = output_norms_}; }
  bool comparable_across_heads() const override { return true; }

  // Nothing is known before the repeat, and what is not judged stays.
  void Score(const Entries& /*entries*/, std::span<float> worth) const override {
    std::fill(worth.begin(), worth.end(), std::numeric_limits<float>::infinity());
  }

  // In logarithms throughout: probabilities of far entries are below the smallest float.
  void JudgeRepeat(const RepeatEvidence& evidence, std::span<float> worth) const override {
    constexpr double kMost = std::numeric_limits<float>::max();
    const size_t n = static_cast<size_t>(evidence.n_entries);
    for (size_t i = 0; i < n; ++i) {
      double best = -kMost;
      for (size_t g = 0; g < static_cast<size_t>(evidence.group); ++g) {
        double log = evidence.log2_probability[g * n + i] * std::numbers::ln2;
        if (output_norms_) log += std::log(static_cast<double>(evidence.output_norm[g * n + i]));
        if (log > best) best = log;
      }
      worth[i] = static_cast<float>(std::min(best, kMost));
    }
  }

 private:
  bool output_norms_;
};

}  // namespace

std::unique_ptr<Scorer> MakeKvzip(const Plan& /*plan*/, const ModelInfo& /*model*/) {
  return std::make_unique<Kvzip>(false);
}

std::unique_ptr<Scorer> MakeKvzipPlus(const Plan& /*plan*/, const ModelInfo& /*model*/) {
  return std::make_unique<Kvzip>(true);
}

}  // namespace pith
