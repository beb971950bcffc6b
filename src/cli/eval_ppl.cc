// pith eval ppl: perplexity of whole texts.
#include "eval/ppl.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/eval_plans.h"
#include "cli/eval_tasks.h"
#include "cli/eval_texts.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "engine/repeat_pass.h"
#include "eval/interval.h"
#include "scorers/scorer.h"

namespace pith::cli {
namespace {

using Json = nlohmann::ordered_json;
using PplCell = Cell<PplOutcome>;

// Raise it when the same seed no longer gives the same pieces.
constexpr int kTaskVersion = 1;

struct PplFlags {
  EvalFlags eval{EvalFlags::Tries::kPlansWhileReading};
  std::vector<std::string> text;
  int from = 512;
  bool streaming = false;
};

// A value of every piece.
template <typename Value>
std::vector<double> Each(const PplCell& cell, const Value& value) {
  std::vector<double> values;
  for (const PplOutcome& outcome : cell.outcomes) values.push_back(value(outcome));
  return values;
}

PairedMeans SummaryOf(const PplCell& cell, const PplCell& full, const PplFlags& flags) {
  const auto nll = [](const PplOutcome& outcome) { return outcome.nll; };
  return ComparePaired(Each(full, nll), Each(cell, nll), flags.eval.seed());
}

Json ByPosition(const PplCell& cell, const PplCell& full, const PplFlags& flags) {
  Json json = Json::array();
  for (size_t bin = 0; bin < cell.outcomes.front().by_position.size(); ++bin) {
    const auto nll = [&](const PplOutcome& outcome) { return outcome.by_position.at(bin); };
    const PairedMeans sum = ComparePaired(Each(full, nll), Each(cell, nll), flags.eval.seed());
    json.push_back({{"position", static_cast<int64_t>(bin) * kPositionBin},
                    {"nll", sum.mean},
                    {"nll_increase", sum.increase},
                    {"nll_increase_interval", Pair(sum.increase_interval)}});
  }
  return json;
}

Json RecordOf(const PplCell& cell, const PplCell& full, const PplFlags& flags, const Model& model,
              const SessionOptions& options) {
  const PairedMeans sum = SummaryOf(cell, full, flags);
  Json json;
  json["task"] = flags.streaming ? "ppl_streaming" : "ppl";
  AddTried(json, model, cell.length, cell.tried, flags.eval);
  json["from"] = flags.from;
  json["nll"] = sum.mean;
  json["full_nll"] = sum.baseline;
  json["nll_increase"] = sum.increase;
  json["nll_increase_interval"] = Pair(sum.increase_interval);
  json["perplexity"] = std::exp(sum.mean);
  json["perplexity_interval"] = {std::exp(sum.interval.low), std::exp(sum.interval.high)};
  json["full_perplexity"] = std::exp(sum.baseline);
  json["by_position"] = ByPosition(cell, full, flags);
  AddMeans(json, MeansOf(cell.outcomes), MeansOf(full.outcomes), flags.eval, options);
  return json;
}

std::string TableOf(const std::vector<PplCell>& cells, const PplFlags& flags) {
  std::vector<std::vector<std::string>> rows = {{"length", "scorer", "keep", "budget", "window",
                                                 "perplexity", "95 % interval", "NLL increase",
                                                 "95 % interval", "kept", "KV", "read s"}};
  const PplCell* full = nullptr;
  for (const PplCell& cell : cells) {
    if (cell.tried.full()) full = &cell;
    const PairedMeans sum = SummaryOf(cell, *full, flags);
    const ReadingMeans means = MeansOf(cell.outcomes);
    std::vector<std::string> row = PlanCells(cell.tried, cell.length);
    row.push_back(fmt::format("{:.2f}", std::exp(sum.mean)));
    row.push_back(
        fmt::format("{:.2f}-{:.2f}", std::exp(sum.interval.low), std::exp(sum.interval.high)));
    row.push_back(fmt::format("{:+.4f}", sum.increase));
    row.push_back(
        fmt::format("{:+.4f} to {:+.4f}", sum.increase_interval.low, sum.increase_interval.high));
    row.push_back(fmt::format("{:.1f}%", 100 * means.kept_fraction));
    row.push_back(FormatBytes(static_cast<uint64_t>(means.kv_bytes)));
    row.push_back(fmt::format("{:.2f}", means.read_s));
    rows.push_back(std::move(row));
  }
  return Table(rows);
}

// Scorers that judge by repeating have seen nothing before the first repeat.
void RefuseUnjudged(std::span<const TriedPlan> plans, const PplFlags& flags, const Model& model) {
  for (const TriedPlan& tried : plans) {
    if (!tried.evicts() || !MakeScorer(tried.plan, model.info())->needs().repeat_pass) continue;
    if (flags.streaming) {
      throw UsageError(fmt::format(
          "{} judges a text after it was read, expected another --scorer for --streaming",
          tried.plan.scorer));
    }
    flags.eval.CheckLengths(kRepeatChunk + 1, ContextOf(model, {}),
                            fmt::format("as {} judges what was read after every {} tokens",
                                        tried.plan.scorer, kRepeatChunk));
  }
}

}  // namespace

int EvalPpl(const EvalTask& task, std::span<char* const> arguments) {
  PplFlags flags;
  CommandLine line(fmt::format("eval {}", task.name), task.summary);
  AddTextFlag(line, flags.text);
  line.Option("--from", flags.from, "N",
              "first token of a piece whose prediction counts (the curve over positions has all)");
  line.Flag("--streaming", flags.streaming,
            "token after token as if the text were generated, the cache at its budget after each "
            "(with --keep 512 the protocol of the Q-Filters paper)");
  flags.eval.AddTo(line, "pieces of text of each length");
  line.Footer(
      "Pieces of --length tokens of plain text are read anew with the full cache and with every "
      "plan, which\nevicts after every batch (-b), and every token from --from on is predicted on "
      "the way. Scorers that repeat\nthe text judge it chunkwise. Intervals are a bootstrap over "
      "pieces, the increase of NLL is paired.");
  if (!line.Parse(arguments)) return kDone;
  flags.eval.Check();
  if (flags.from < 1 || flags.from > 10000000) {
    throw UsageError(fmt::format("--from is {}, expected 1 to 10,000,000", flags.from));
  }
  const TextTask text(flags.text, flags.eval);
  const Model& model = text.model();
  const SessionOptions& options = text.options();
  text.CheckLengths(flags.from + 2, "more than --from");
  const std::vector<TriedPlan> plans = flags.eval.Plans(model, options);
  RefuseUnjudged(plans, flags, model);
  Json settings = text.Settings("ppl", kTaskVersion);
  settings.push_back(flags.from);
  settings.push_back(flags.streaming ? Json("streaming") : Json(options.n_batch));
  const auto cells = RunCells<PplOutcome>(
      flags.eval, settings, plans, "pieces",
      [&](int trial, int64_t length, std::span<const Plan> missing) {
        return RunPpl(model, text.pieces().Make(trial, length), missing, flags.from,
                      flags.streaming ? Stride::kToken : Stride::kBatch, options);
      });
  if (flags.eval.json()) {
    PrintRecords(cells, [&](const PplCell& cell, const PplCell& full) {
      return RecordOf(cell, full, flags, model, options);
    });
  } else {
    Print(TableOf(cells, flags));
  }
  return kDone;
}

}  // namespace pith::cli
