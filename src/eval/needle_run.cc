#include "eval/needle_run.h"

#include <algorithm>

namespace pith {
namespace {

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

}  // namespace

std::vector<NeedleOutcome> RunNeedle(const Model& model, const NeedleTrial& trial,
                                     std::span<const Plan> plans, Compression compression,
                                     const SessionOptions& options) {
  std::vector<NeedleOutcome> outcomes(plans.size());
  ForEachPlan(model, trial.opening, trial.context, plans, compression, options,
              [&](size_t index, Session& session, const ReadingStats& stats) {
                ReadOptions pinned;
                pinned.pin = true;
                session.Read(trial.question, pinned);
                NeedleOutcome& outcome = outcomes[index];
                static_cast<ReadingStats&>(outcome) = stats;
                outcome.answer = GreedyAnswer(session);
                outcome.correct = AnswerNames(outcome.answer, trial.value);
                outcome.key = trial.key;
                outcome.value = trial.value;
                outcome.depth = trial.depth;
              });
  return outcomes;
}

}  // namespace pith
