#include "eval/needle_run.h"

#include <algorithm>

namespace pith {
namespace {

bool KeepsAll(const Plan& plan) { return plan.keep.kind == Keep::Kind::kAll; }

void ReadContext(Session& session, const NeedleTrial& trial) {
  ReadOptions pinned;
  pinned.pin = true;
  if (!trial.opening.empty()) session.Read(trial.opening, pinned);
  session.Read(trial.context);
}

// Not by Session::Next, which would evict as the answer grows.
std::string GreedyAnswer(Session& session) {
  const Tokenizer& tokenizer = session.model().tokenizer();
  ReadOptions pinned;
  pinned.pin = true;
  std::vector<Token> answer;
  while (answer.size() < NeedleTask::kAnswerTokens) {
    const std::span<const float> logits = session.logits();
    const auto token =
        static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    if (tokenizer.IsEndOfGeneration(token)) break;
    answer.push_back(token);
    if (answer.size() < NeedleTask::kAnswerTokens) session.Read({&token, 1}, pinned);
  }
  return tokenizer.Decode(answer);
}

// `session` holds the compressed context, `times` what it took.
NeedleOutcome Ask(Session& session, const NeedleTrial& trial, const TimeStats& times) {
  const CacheStats stats = session.stats();
  NeedleOutcome outcome;
  outcome.tokens = stats.tokens;
  outcome.entries = stats.entries;
  outcome.entries_full = stats.entries_full;
  outcome.kv_bytes = stats.kv_bytes;
  outcome.read_s = times.read_s - times.score_s;
  outcome.score_s = times.score_s;
  ReadOptions pinned;
  pinned.pin = true;
  session.Read(trial.question, pinned);
  outcome.answer = GreedyAnswer(session);
  outcome.correct = AnswerNames(outcome.answer, trial.value);
  return outcome;
}

// One reading for all plans.
std::vector<NeedleOutcome> AskBranches(const Model& model, const NeedleTrial& trial,
                                       std::span<const Plan> plans, const SessionOptions& options) {
  Plan judged;
  const auto compressed = std::find_if_not(plans.begin(), plans.end(), KeepsAll);
  if (compressed != plans.end()) {
    judged = *compressed;
    judged.keep = Keep();
    judged.keep.kind = Keep::Kind::kFraction;
  }
  Session base(model, judged, options);
  ReadContext(base, trial);
  std::vector<NeedleOutcome> outcomes;
  for (const Plan& plan : plans) {
    Session branch = KeepsAll(plan) ? base.Fork() : base.Fork(plan);
    outcomes.push_back(Ask(branch, trial, base.times()));
    if (KeepsAll(plan)) outcomes.back().score_s = 0;  // judging was for the others
  }
  return outcomes;
}

}  // namespace

std::vector<NeedleOutcome> RunNeedle(const Model& model, const NeedleTrial& trial,
                                     std::span<const Plan> plans, Compression compression,
                                     const SessionOptions& options) {
  if (compression == Compression::kAfterReading) return AskBranches(model, trial, plans, options);
  std::vector<NeedleOutcome> outcomes;
  for (const Plan& plan : plans) {
    Session session(model, plan, options);
    ReadContext(session, trial);
    outcomes.push_back(Ask(session, trial, session.times()));
  }
  return outcomes;
}

}  // namespace pith
