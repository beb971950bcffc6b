#include "eval/needle_run.h"

#include <utility>

#include "eval/answer_score.h"

namespace pith {

std::vector<NeedleOutcome> RunNeedle(const Model& model, const NeedleTrial& trial,
                                     std::span<const Plan> plans, const Asking& asking) {
  std::vector<NeedleOutcome> outcomes;
  for (Answered& answered : AskPlans(model, trial, plans, asking)) {
    NeedleOutcome& outcome = outcomes.emplace_back();
    static_cast<Answered&>(outcome) = std::move(answered);
    outcome.correct = Names(outcome.answer, trial.value);
    outcome.key = trial.key;
    outcome.value = trial.value;
    outcome.depth = trial.depth;
  }
  return outcomes;
}

}  // namespace pith
