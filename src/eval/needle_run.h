// One trial on a model, for several plans.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "eval/branches.h"
#include "eval/needle.h"

namespace pith {

struct NeedleOutcome : ReadingStats {
  bool correct = false;
  std::string answer;  // what the model said, at most NeedleTask::kAnswerTokens tokens
  // Of the trial, for whoever reads the result.
  std::string key;
  std::string value;
  double depth = 0;
};

// The protocol of question-agnostic compression: opening (pinned), context, compression, question
// (pinned), greedy answer during which nothing is evicted either. One outcome per plan, see
// ForEachPlan for what they may differ in. Throws what Session throws.
std::vector<NeedleOutcome> RunNeedle(const Model& model, const NeedleTrial& trial,
                                     std::span<const Plan> plans, Compression compression,
                                     const SessionOptions& options);

}  // namespace pith
