// pith eval longbench: questions about long texts, from files.
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/eval_asked.h"
#include "cli/eval_tasks.h"
#include "cli/verbs.h"
#include "eval/longbench.h"

namespace pith::cli {
namespace {

using Json = nlohmann::ordered_json;

// Raise it when the same samples no longer give the same prompts or scores.
constexpr int kTaskVersion = 1;

struct LongBenchFlags {
  EvalFlags eval;
  AskFlags ask;
  std::vector<std::string> files;
};

uint64_t HashOf(const LongBenchSet& set) {
  uint64_t hash = 0;
  const auto add = [&](const std::string& text) {
    hash = XXH3_64bits_withSeed(text.data(), text.size(), hash);
  };
  for (const LongBenchSample& sample : set.samples) {
    add(sample.input);
    add(sample.context);
    for (const auto* list : {&sample.answers, &sample.classes}) {
      for (const std::string& text : *list) add(text);
    }
  }
  return hash;
}

std::vector<LongBenchSet> ReadSets(const std::vector<std::string>& files) {
  if (files.empty()) throw UsageError("which samples? Give the JSON lines files of LongBench");
  std::vector<LongBenchSet> sets;
  for (const std::string& file : files) ReadLongBench(ReadData(file), file, sets);
  return sets;
}

}  // namespace

int EvalLongBench(const EvalTask& task, std::span<char* const> arguments) {
  LongBenchFlags flags;
  CommandLine line(fmt::format("eval {}", task.name), task.summary);
  line.Files("--data", flags.files,
             "LongBench's files of JSON lines (qasper.jsonl, ...), English or code");
  flags.ask.AddTo(line);
  flags.eval.AddTo(line, "samples of each dataset, or all if there are fewer");
  line.Footer(
      "--length counts the prompt, of which the middle is cut out where it is longer, and its "
      "answer. Scores\nare 0 to 100, by LongBench's rules (F1, ROUGE-L, ...), in the mean over "
      "samples; intervals are a\nbootstrap over them. The text is compressed before what follows "
      "it in the prompt is read, unless\n--aware. The full cache is always measured too.");
  if (!line.Parse(arguments)) return kDone;
  flags.eval.Check();
  flags.ask.Check();
  const std::vector<LongBenchSet> sets = ReadSets(flags.files);

  const Model model = flags.eval.LoadModel();
  const SessionOptions options = flags.eval.ForSession(model);
  const PromptFrame frame = flags.ask.Frame(model);
  flags.eval.CheckLengths(1, ContextOf(model, options), "the context");
  const auto make = [&](const LongBenchSet& set, int sample, int64_t length) {
    return LongBenchTrial(set.dataset, set.samples[static_cast<size_t>(sample)], model.tokenizer(),
                          frame, length);
  };
  std::vector<Subtask> subtasks;
  for (const LongBenchSet& set : sets) {
    const int left = static_cast<int>(set.samples.size()) - flags.eval.first_trial();
    if (left < 1) {
      throw UsageError(fmt::format("--first-trial is {}, but {} has {} samples",
                                   flags.eval.first_trial(), set.dataset, set.samples.size()));
    }
    Json settings = {"longbench",     kTaskVersion, set.dataset, model.info().fingerprint,
                     options.n_batch, HashOf(set)};
    flags.ask.AddSettings(settings, frame);
    subtasks.push_back({set.dataset, std::move(settings), std::min(flags.eval.trials(), left)});
    for (int64_t length : flags.eval.Lengths()) {
      for (int i = 0; i < subtasks.back().trials; ++i) {
        AsUsage([&] { return make(set, flags.eval.first_trial() + i, length); });
      }
    }
  }
  const std::vector<TriedPlan> plans = flags.eval.Plans(model, options);
  const Asking asking = flags.ask.How(flags.eval, plans, options);
  const auto cells = RunSubtasks<ScoredOutcome>(
      flags.eval, subtasks, plans, "longbench",
      [&](size_t subtask, int trial, int64_t length, std::span<const Plan> missing) {
        const LongBenchSet& set = sets[subtask];
        return RunLongBench(model, set.dataset, set.samples[static_cast<size_t>(trial)],
                            make(set, trial, length), missing, asking);
      });
  PrintScores({task.name, model, flags.eval, flags.ask, options}, subtasks, cells);
  return kDone;
}

}  // namespace pith::cli
