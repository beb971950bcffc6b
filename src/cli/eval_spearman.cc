// pith eval spearman: whether scorers rank entries as they are looked at.
#include "eval/spearman.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/eval_plans.h"
#include "cli/eval_tasks.h"
#include "cli/eval_texts.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "eval/interval.h"

namespace pith::cli {
namespace {

using Json = nlohmann::ordered_json;
using SpearmanCell = Cell<SpearmanOutcome>;

// Raise it when the same seed no longer gives the same pieces.
constexpr int kTaskVersion = 1;

struct SpearmanFlags {
  EvalFlags eval{EvalFlags::Tries::kScorers};
  std::vector<std::string> text;
  int distance = 0;
};

std::vector<double> MeansOfPieces(const SpearmanCell& cell) {
  std::vector<double> means;
  for (const SpearmanOutcome& outcome : cell.outcomes) means.push_back(outcome.mean());
  return means;
}

// Over pieces. [n_layers][n_kv_heads]
std::vector<std::vector<double>> PerHead(const SpearmanCell& cell) {
  std::vector<std::vector<double>> means;
  for (const auto& layer : cell.outcomes.front().per_head) means.emplace_back(layer.size());
  for (const SpearmanOutcome& outcome : cell.outcomes) {
    for (size_t layer = 0; layer < means.size(); ++layer) {
      for (size_t h = 0; h < means[layer].size(); ++h) {
        means[layer][h] +=
            outcome.per_head.at(layer).at(h) / static_cast<double>(cell.outcomes.size());
      }
    }
  }
  return means;
}

Json RecordOf(const SpearmanCell& cell, const SpearmanFlags& flags, const Model& model,
              const SessionOptions& options) {
  const std::vector<double> means = MeansOfPieces(cell);
  const ReadingMeans reading = MeansOf(cell.outcomes);
  Json json;
  json["task"] = "spearman";
  AddTried(json, model, cell.length, cell.tried, flags.eval);
  json["distance"] = flags.distance;
  json["spearman"] = Mean(means);
  json["spearman_interval"] = Pair(BootstrapMean(means, flags.eval.seed()));
  json["per_head"] = PerHead(cell);
  AddMeans(json, reading, reading, flags.eval, options);
  return json;
}

std::string TableOf(const std::vector<SpearmanCell>& cells, const SpearmanFlags& flags) {
  std::vector<std::vector<std::string>> rows = {
      {"length", "scorer", "Spearman", "95 % interval", "least head", "best head", "score s"}};
  for (const SpearmanCell& cell : cells) {
    const std::vector<double> means = MeansOfPieces(cell);
    const Interval interval = BootstrapMean(means, flags.eval.seed());
    std::vector<double> heads;
    for (const auto& layer : PerHead(cell)) heads.insert(heads.end(), layer.begin(), layer.end());
    std::vector<std::string> row = PlanCells(cell.tried, cell.length);
    row.resize(2);  // nothing is evicted, so the rest of the plan says nothing
    row.push_back(fmt::format("{:+.3f}", Mean(means)));
    row.push_back(fmt::format("{:+.3f} to {:+.3f}", interval.low, interval.high));
    row.push_back(fmt::format("{:+.3f}", *std::min_element(heads.begin(), heads.end())));
    row.push_back(fmt::format("{:+.3f}", *std::max_element(heads.begin(), heads.end())));
    row.push_back(fmt::format("{:.2f}", MeansOf(cell.outcomes).score_s));
    rows.push_back(std::move(row));
  }
  return Table(rows);
}

}  // namespace

int EvalSpearman(const EvalTask& task, std::span<char* const> arguments) {
  SpearmanFlags flags;
  CommandLine line(fmt::format("eval {}", task.name), task.summary);
  AddTextFlag(line, flags.text);
  line.Option("--distance", flags.distance, "N",
              "an entry is looked at by the queries of tokens N or more later, 0: by its own and "
              "all that follow");
  flags.eval.AddTo(line, "pieces of text of each length");
  line.Footer(
      "--length tokens of plain text are read with nothing evicted. In every layer and KV head the "
      "entries are\nranked by the scorer and by the attention they receive, the mean over queries "
      "and query heads. One reading\nserves all scorers; intervals are a bootstrap over pieces.");
  if (!line.Parse(arguments)) return kDone;
  flags.eval.Check();
  if (flags.distance < 0 || flags.distance > 10000000) {
    throw UsageError(fmt::format("--distance is {}, expected 0 to 10,000,000", flags.distance));
  }
  const TextTask text(flags.text, flags.eval);
  const Model& model = text.model();
  const SessionOptions& options = text.options();
  text.CheckLengths(flags.distance + 4, "more than --distance");
  const std::vector<TriedPlan> plans = flags.eval.Plans(model, options);
  Json settings = text.Settings("spearman", kTaskVersion);
  settings.push_back(options.n_batch);
  settings.push_back(flags.distance);
  const auto cells =
      RunCells<SpearmanOutcome>(flags.eval, settings, plans, "pieces",
                                [&](int trial, int64_t length, std::span<const Plan> missing) {
                                  return RunSpearman(model, text.pieces().Make(trial, length),
                                                     missing, flags.distance, options);
                                });
  if (flags.eval.json()) {
    auto records = Json::array();
    for (const SpearmanCell& cell : cells) {
      records.push_back(RecordOf(cell, flags, model, options));
    }
    PrintRecords(records, records.size() == 1);
  } else {
    Print(TableOf(cells, flags));
  }
  return kDone;
}

}  // namespace pith::cli
