#include "scorers/scorer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "base/fail.h"
#include "scorers/methods.h"

namespace pith {
namespace {

struct Method {
  std::string_view name;
  std::unique_ptr<Scorer> (*make)(const Plan& plan, const ModelInfo& model);
};

constexpr std::array kMethods = {
    Method{"qfilter", MakeQFilter},   Method{"qfilter+", MakeQFilterPlus},
    Method{"knorm", MakeKnorm},       Method{"streaming_llm", MakeStreamingLlm},
    Method{"random", MakeRandom},     Method{"kvzip", MakeKvzip},
    Method{"kvzip+", MakeKvzipPlus},  Method{"kvzap", MakeKvzap},
    Method{"kvzap+", MakeKvzapPlus},  Method{"snapkv", MakeSnapKv},
    Method{"tova", MakeTova},         Method{"keydiff", MakeKeyDiff},
    Method{"expected", MakeExpected}, Method{"expected_calibrated", MakeExpectedCalibrated},
};

}  // namespace

void Scorer::Score(const Entries& /*entries*/, std::span<float> worth) const {
  if (needs().whole_layers) {
    std::fill(worth.begin(), worth.end(), kUnjudged);
    return;
  }
  Fail(ErrorCode::kInvalidArgument, "this scorer judges hidden states, not keys and values");
}

void Scorer::ScoreHidden(const HiddenStates& /*hidden*/, std::span<float> /*worth*/) const {
  Fail(ErrorCode::kInvalidArgument, "this scorer judges keys and values, not hidden states");
}

void Scorer::JudgeRepeat(const RepeatEvidence& /*evidence*/, std::span<float> /*worth*/) const {
  Fail(ErrorCode::kInvalidArgument, "this scorer judges entries when they are appended");
}

void Scorer::JudgeLayer(const LayerEvidence& /*evidence*/,
                        std::span<const std::span<float>> /*worth*/) const {
  Fail(ErrorCode::kInvalidArgument, "this scorer judges entries when they are appended");
}

std::vector<std::string> ScorerNames() {
  std::vector<std::string> names;
  names.reserve(kMethods.size());
  for (const Method& method : kMethods) names.emplace_back(method.name);
  return names;
}

std::unique_ptr<Scorer> MakeScorer(const Plan& plan, const ModelInfo& model) {
  const auto method = std::find_if(kMethods.begin(), kMethods.end(),
                                   [&](const Method& m) { return m.name == plan.scorer; });
  if (method == kMethods.end()) {
    Fail(ErrorCode::kInvalidArgument, "there is no scorer \"{}\", expected one of {}", plan.scorer,
         fmt::join(ScorerNames(), ", "));
  }
  if (plan.keep.kind == Keep::Kind::kAll) return nullptr;
  return method->make(plan, model);
}

}  // namespace pith
