#include "eval/ruler.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/fail.h"
#include "eval/answer_score.h"
#include "eval/ruler_prompts.h"

namespace pith {
namespace {

constexpr int kNeedleTokens = 128;
constexpr int kDocumentTokens = 32;

constexpr std::array<RulerTaskInfo, 13> kTasks = {{
    {"niah_single_1", kNeedleTokens, false, true, nullptr},
    {"niah_single_2", kNeedleTokens, true, true, nullptr},
    {"niah_single_3", kNeedleTokens, true, true, nullptr},
    {"niah_multikey_1", kNeedleTokens, true, true, nullptr},
    {"niah_multikey_2", kNeedleTokens, false, true, nullptr},
    {"niah_multikey_3", kNeedleTokens, false, false, nullptr},
    {"niah_multivalue", kNeedleTokens, true, true, nullptr},
    {"niah_multiquery", kNeedleTokens, true, true, nullptr},
    {"vt", 30, false, false, nullptr},
    {"cwe", 120, false, true, nullptr},
    {"fwe", 50, false, false, nullptr},
    {"qa_1", kDocumentTokens, false, false, &RulerData::squad},
    {"qa_2", kDocumentTokens, false, false, &RulerData::hotpotqa},
}};

struct NeedleShape {
  std::string_view task;
  RulerNeedles needles;
};

constexpr std::array<NeedleShape, 8> kNeedles = {{
    {"niah_single_1", {.hay = RulerHay::kNoise}},
    {"niah_single_2", {}},
    {"niah_single_3", {.value = RulerValue::kUuids}},
    {"niah_multikey_1", {.n_keys = 4}},
    {"niah_multikey_2", {.hay = RulerHay::kNeedles}},
    {"niah_multikey_3",
     {.hay = RulerHay::kNeedles, .key = RulerValue::kUuids, .value = RulerValue::kUuids}},
    {"niah_multivalue", {.n_values = 4}},
    {"niah_multiquery", {.n_keys = 4, .n_queries = 4}},
}};

const RulerTaskInfo& InfoOf(std::string_view name) {
  const auto* found = std::find_if(kTasks.begin(), kTasks.end(),
                                   [&](const RulerTaskInfo& info) { return info.name == name; });
  if (found == kTasks.end()) {
    Fail(ErrorCode::kInvalidArgument, "RULER has no task '{}', expected one such as {} or {}", name,
         kTasks.front().name, kTasks.back().name);
  }
  return *found;
}

RulerPrompt Draw(const RulerTaskInfo& info, RulerDraw draw) {
  const std::string_view name = info.name;
  for (const NeedleShape& shape : kNeedles) {
    if (shape.task == name) return DrawNeedles(shape.needles, std::move(draw));
  }
  if (name == "vt") return DrawVariableTracking(std::move(draw));
  if (name == "cwe") return DrawCommonWords(std::move(draw));
  if (name == "fwe") return DrawFrequentWords(std::move(draw));
  return DrawDocuments(*(draw.data.*info.documents), std::move(draw));
}

}  // namespace

std::span<const RulerTaskInfo> RulerTasks() { return kTasks; }

RulerTask::RulerTask(std::string_view name, const Tokenizer& tokenizer, PromptFrame frame,
                     const RulerData& data, uint64_t seed)
    : info_(InfoOf(name)),
      tokenizer_(tokenizer),
      frame_(std::move(frame)),
      data_(data),
      seed_(seed) {
  if (info_.needs_words) {
    for (const auto* list : {&data.words->adjectives, &data.words->nouns, &data.words->verbs}) {
      if (list->empty()) {
        Fail(ErrorCode::kInvalidArgument,
             "a list of words is empty, expected adjectives, nouns and verbs");
      }
    }
  }
}

RulerTrial RulerTask::Make(int index, int64_t length) const {
  const std::string_view name = info_.name;
  SeededRandom random(SeededRandom(seed_).Next() ^ static_cast<uint64_t>(index) ^
                      XXH3_64bits(name.data(), name.size()));
  constexpr int kAttempts = 100;
  for (int attempt = 1;; ++attempt) {
    const RulerPrompt prompt =
        Draw(info_, {data_, tokenizer_, length, info_.answer_tokens, SeededRandom(random.Next())});
    RulerTrial trial;
    static_cast<AskedTrial&>(trial) =
        AskAbout(tokenizer_, frame_, prompt.question, prompt.lead, info_.answer_tokens);
    trial.references = prompt.references;
    const int64_t beside = TokensBesideContext(trial);
    const auto tokens = [&](int64_t n) {
      trial.text = prompt.text(n);
      trial.context = tokenizer_.Encode(trial.text);
      return beside + static_cast<int64_t>(trial.context.size());
    };
    if (const int64_t needed = tokens(prompt.fewest); needed > length) {
      // Another question may have shorter documents.
      if (info_.documents != nullptr && attempt < kAttempts) continue;
      Fail(ErrorCode::kInvalidArgument, "{} tokens are too few for {}, expected {} or more", length,
           name, needed);
    }
    const int64_t units = MostThatFit(2 * prompt.fewest, [&](int64_t n) {
      return n <= prompt.fewest || (n <= prompt.most && tokens(n) <= length);
    });
    tokens(std::max(units, prompt.fewest));
    return trial;
  }
}

double RulerTask::Score(std::string_view answer, std::span<const std::string> references) const {
  return info_.documents != nullptr ? NamedAny(answer, references) : NamedShare(answer, references);
}

std::vector<ScoredOutcome> RunRuler(const Model& model, const RulerTask& task,
                                    const RulerTrial& trial, std::span<const Plan> plans,
                                    const Asking& asking) {
  const auto score = [&](std::string_view answer) { return task.Score(answer, trial.references); };
  std::vector<ScoredOutcome> outcomes;
  for (Answered& answered : AskPlans(model, trial, plans, asking,
                                     [&](std::string_view answer) { return score(answer) == 1; })) {
    ScoredOutcome& outcome = outcomes.emplace_back();
    static_cast<Answered&>(outcome) = std::move(answered);
    outcome.score = score(outcome.answer);
    outcome.subtask = task.info().name;
    outcome.references = trial.references;
  }
  return outcomes;
}

}  // namespace pith
