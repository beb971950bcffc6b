// pith eval needle: whether a fact is found again.
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/eval_asked.h"
#include "cli/eval_tasks.h"
#include "cli/eval_texts.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "eval/interval.h"
#include "eval/needle_run.h"

namespace pith::cli {
namespace {

using Json = nlohmann::ordered_json;
using NeedleCell = Cell<NeedleOutcome>;

// Raise it when the same seed no longer gives the same trials.
constexpr int kTaskVersion = 1;

struct NeedleFlags {
  EvalFlags eval;
  std::vector<std::string> haystack;
  std::string values = "numbers";
  int depths = 0;
  AskFlags ask;
};

struct Accuracy {
  int64_t trials = 0;
  int64_t correct = 0;
  double share = 0;
  Interval interval;
};

Accuracy AccuracyOf(const std::vector<NeedleOutcome>& outcomes) {
  Accuracy accuracy;
  for (const NeedleOutcome& outcome : outcomes) {
    ++accuracy.trials;
    accuracy.correct += outcome.correct ? 1 : 0;
  }
  accuracy.share = static_cast<double>(accuracy.correct) / static_cast<double>(accuracy.trials);
  accuracy.interval = WilsonInterval(accuracy.correct, accuracy.trials);
  return accuracy;
}

// What an outcome depends on besides the plan.
Json TaskSettings(const NeedleFlags& flags, const Model& model, const SessionOptions& options,
                  const Haystack& haystack, const PromptFrame& frame) {
  Json json = {kTaskVersion, model.info().fingerprint, haystack.hash(), flags.eval.seed(),
               options.n_batch};
  flags.ask.AddSettings(json, frame);
  if (flags.values != "numbers") json.push_back(flags.values);
  if (flags.depths > 0) json.push_back({"depths", flags.depths});
  return json;
}

// Of every depth; random ones are gathered in fifths of the text, each named by its middle.
Json ByDepth(const std::vector<NeedleOutcome>& outcomes, bool is_grid) {
  constexpr double kParts = 5;
  std::map<double, std::vector<NeedleOutcome>> by_depth;
  for (const NeedleOutcome& outcome : outcomes) {
    const double middle = (std::floor(outcome.depth * kParts) + 0.5) / kParts;
    by_depth[is_grid ? outcome.depth : middle].push_back(outcome);
  }
  Json json = Json::array();
  for (const auto& [depth, at_depth] : by_depth) {
    const Accuracy accuracy = AccuracyOf(at_depth);
    json.push_back({{"depth", depth}, {"correct", accuracy.correct}, {"trials", accuracy.trials}});
  }
  return json;
}

Json RecordOf(const NeedleCell& cell, const NeedleCell& full, const NeedleFlags& flags,
              const Model& model, const SessionOptions& options) {
  const Accuracy accuracy = AccuracyOf(cell.outcomes);
  const Accuracy full_accuracy = AccuracyOf(full.outcomes);
  Json json;
  json["task"] = "niah_single_2";
  json["values"] = flags.values;
  AddTried(json, model, cell.length, cell.tried, flags.eval);
  json["chat"] = flags.ask.chat();
  json["aware"] = flags.ask.aware();
  json["accuracy"] = accuracy.share;
  json["interval"] = {accuracy.interval.low, accuracy.interval.high};
  json["correct"] = accuracy.correct;
  json["by_depth"] = ByDepth(cell.outcomes, flags.depths > 0);
  json["full_accuracy"] = full_accuracy.share;
  json["full_interval"] = {full_accuracy.interval.low, full_accuracy.interval.high};
  AddMeans(json, MeansOf(cell.outcomes), MeansOf(full.outcomes), flags.eval, options);
  return json;
}

std::string TableOf(const std::vector<NeedleCell>& cells) {
  std::vector<std::vector<std::string>> rows = {{"length", "scorer", "keep", "budget", "window",
                                                 "accuracy", "95 % interval", "found", "kept", "KV",
                                                 "read s", "score s"}};
  for (const NeedleCell& cell : cells) {
    const Accuracy accuracy = AccuracyOf(cell.outcomes);
    const ReadingMeans means = MeansOf(cell.outcomes);
    std::vector<std::string> row = PlanCells(cell.tried, cell.length);
    row.push_back(fmt::format("{:.1f}%", 100 * accuracy.share));
    row.push_back(
        fmt::format("{:.1f}-{:.1f}%", 100 * accuracy.interval.low, 100 * accuracy.interval.high));
    row.push_back(fmt::format("{}/{}", accuracy.correct, accuracy.trials));
    row.push_back(fmt::format("{:.1f}%", 100 * means.kept_fraction));
    row.push_back(FormatBytes(static_cast<uint64_t>(means.kv_bytes)));
    row.push_back(fmt::format("{:.2f}", means.read_s));
    row.push_back(fmt::format("{:.2f}", means.score_s));
    rows.push_back(std::move(row));
  }
  return Table(rows);
}

}  // namespace

int EvalNeedle(const EvalTask& task, std::span<char* const> arguments) {
  NeedleFlags flags;
  CommandLine line(fmt::format("eval {}", task.name), task.summary);
  line.Files("--haystack", flags.haystack,
             "text files, or folders of .txt files, to hide something in (default: " +
                 std::string(kCheckoutEssays) + " if that is there)");
  line.Option("--values", flags.values, "KIND",
              "what is hidden: numbers (of 7 digits), or words (two with a hyphen)");
  line.Option("--depths", flags.depths, "N",
              "hide at N depths in turn, evenly spaced from the beginning to the end (default: "
              "random ones)");
  flags.ask.AddTo(line);
  flags.eval.AddTo(line, "needles hidden at each length");
  line.Footer(
      "--length counts the prompt and its answer. The text is compressed before the question is "
      "read, "
      "unless\n--aware; question and answer, greedy, stay whole. The full cache is always measured "
      "too. "
      "One reading\nserves all plans; with --while-reading, --chunkwise or --kv-limit each plan "
      "reads "
      "anew and evicts on\nthe way.");
  if (!line.Parse(arguments)) return kDone;
  flags.eval.Check();
  if (flags.values != "numbers" && flags.values != "words") {
    throw UsageError(fmt::format("--values is '{}', expected numbers or words", flags.values));
  }
  if (flags.depths < 0 || flags.depths > 1000) {
    throw UsageError(fmt::format("--depths is {}, expected 0 to 1,000", flags.depths));
  }
  flags.ask.Check();
  const Haystack haystack(ReadTexts(flags.haystack, "--haystack"));

  const Model model = flags.eval.LoadModel();
  const SessionOptions options = flags.eval.ForSession(model);
  const PromptFrame frame = flags.ask.Frame(model);
  const NeedleTask needles(model.tokenizer(), frame, haystack, flags.eval.seed(),
                           flags.values == "words" ? NeedleValues::kWords : NeedleValues::kNumbers,
                           flags.depths);
  flags.eval.CheckLengths(needles.min_length(), ContextOf(model, options),
                          "what the question takes and the context");
  const std::vector<TriedPlan> plans = flags.eval.Plans(model, options);
  const Asking asking = flags.ask.How(flags.eval, plans, options);
  const auto cells = RunCells<NeedleOutcome>(
      flags.eval, TaskSettings(flags, model, options, haystack, frame), plans, "needles",
      [&](int trial, int64_t length, std::span<const Plan> missing) {
        return RunNeedle(model, needles.Make(trial, length), missing, asking);
      });
  if (flags.eval.json()) {
    PrintRecords(cells, [&](const NeedleCell& cell, const NeedleCell& full) {
      return RecordOf(cell, full, flags, model, options);
    });
  } else {
    Print(TableOf(cells));
  }
  return kDone;
}

}  // namespace pith::cli
