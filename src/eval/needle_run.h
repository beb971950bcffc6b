// One trial on a model, for several plans.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "eval/needle.h"
#include "pith/model.h"
#include "pith/plan.h"
#include "pith/session.h"

namespace pith {

struct NeedleOutcome {
  bool correct = false;
  std::string answer;  // what the model said, at most NeedleTask::kAnswerTokens tokens
  // When the context was read and compressed, before the question.
  int64_t tokens = 0;
  int64_t entries = 0;
  int64_t entries_full = 0;
  uint64_t kv_bytes = 0;
  double read_s = 0;   // reading opening and context, judging left out
  double score_s = 0;  // judging by repetition
};

// How the prompt meets the plan.
enum class Compression {
  // The context is read once with the full cache and judged; every plan evicts from a branch of its
  // own. Judging by repetition does the same anyway; other scorers evict with what attention over
  // the full cache has left behind.
  kAfterReading,
  // The context is read anew for every plan, which evicts while it is read.
  kWhileReading,
};

// The protocol of question-agnostic compression: opening (pinned), context, compression, question
// (pinned), greedy answer during which nothing is evicted either. One outcome per plan; a plan that
// keeps all is the full cache. The plans may differ in `keep` and `budget` only.
// Throws what Session throws.
std::vector<NeedleOutcome> RunNeedle(const Model& model, const NeedleTrial& trial,
                                     std::span<const Plan> plans, Compression compression,
                                     const SessionOptions& options);

}  // namespace pith
