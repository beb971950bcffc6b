// Finds the threshold that keeps a fraction of a text which is still being read.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "budgets/budget.h"

namespace pith {

// What is known of the worths of a text: first what a calibration says of other texts, then more
// and more what this one has shown, the latest most of all. Bounded, however long the text is.
class Steering {
 public:
  static constexpr int kPoints = 257;
  struct Knowledge {
    std::vector<float> quantiles;  // [kPoints], evenly spaced, ascending, finite
    double weight = 0;             // entries that it stands for, >= 0
  };

  // quantiles: WorthQuantiles(), not empty; n_heads: those that share the total, >= 1.
  Steering(std::span<const float> quantiles, int64_t n_heads);

  struct Course {
    int window = 0;
    int64_t n_settled = 0;  // tokens read when Allocate was last called
    int64_t n_to_come = 0;  // tokens until limits.total counts
    int64_t most = 0;       // entries that may be there now
  };
  // Says what goes now. Of what has left the window since the last call that stays which is worth
  // at least a threshold by which, if it stays as it is, limits.total will come out. Where nothing
  // is to come, or more than `most` would be there, the best of all entries stay, at most so many.
  // limits.tau and judged_begin are not used.
  void Allocate(std::span<const HeadEntries> heads, const BudgetLimits& limits,
                const Course& course, Verdicts& out);

  // The threshold of the last Allocate that had one: infinite where all or none were to stay.
  double tau() const { return tau_; }

  // For snapshots; what is given must be as the struct says.
  const Knowledge& knowledge() const { return knowledge_; }
  void SetKnowledge(Knowledge knowledge) { knowledge_ = std::move(knowledge); }

 private:
  // Takes in the worths of entries at `begin` or later; infinite and NaN ones say nothing.
  void See(std::span<const HeadEntries> heads, int32_t begin);
  double FindTau(std::span<const HeadEntries> heads, const BudgetLimits& limits, int window,
                 int64_t n_to_come) const;
  // The worth that a part `p` of all is below, [0, 1].
  double Quantile(double p) const;

  int64_t n_heads_;
  Knowledge knowledge_;
  double tau_ = 0;
};

// While text is generated nobody knows its end: the total is aimed at so many tokens ahead, and
// until then may be above it by this part of all that was read.
inline constexpr int64_t kSteerHorizon = 128;
inline constexpr double kSteerSlack = 0.01;

// Whether the plan keeps a fraction by steering a threshold. Throws Error(kInvalidArgument) where
// it asks for that and its scorer has no quantiles.
bool Steers(const Plan& plan);

}  // namespace pith
