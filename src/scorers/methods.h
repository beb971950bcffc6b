// One maker for each method; MakeScorer picks by name.
#pragma once

#include <memory>

#include "scorers/scorer.h"

namespace pith {

// Q-Filters (arXiv 2503.02812, section 3): worth = -(filter . key), with the filters of
// `plan.calibration`, stored negated as the published ones are.
// Throws Error(kInvalidArgument) without a calibration, Error(kMismatch) for a foreign one.
std::unique_ptr<Scorer> MakeQFilter(const Plan& plan, const ModelInfo& model);

// Low key norm means high attention (arXiv 2406.11430): worth = -|key|.
std::unique_ptr<Scorer> MakeKnorm(const Plan& plan, const ModelInfo& model);

// Sinks and the most recent entries (StreamingLLM, arXiv 2309.17453): worth = position.
std::unique_ptr<Scorer> MakeStreamingLlm(const Plan& plan, const ModelInfo& model);

// The baseline that every method has to beat: worth uniform in [0, 1), a function of the plan's
// seed, the layer, the KV head and the position alone.
std::unique_ptr<Scorer> MakeRandom(const Plan& plan, const ModelInfo& model);

}  // namespace pith
