// One needle on a model, for several plans.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "eval/needle.h"

namespace pith {

struct NeedleOutcome : Answered {
  bool correct = false;
  // Of the trial, for whoever reads the result.
  std::string key;
  std::string value;
  double depth = 0;
};

// One outcome per plan, see AskPlans.
std::vector<NeedleOutcome> RunNeedle(const Model& model, const NeedleTrial& trial,
                                     std::span<const Plan> plans, const Asking& asking);

}  // namespace pith
