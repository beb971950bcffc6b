// pith eval kld: how far predictions move.
#include <fmt/format.h>
#include <xxhash.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/eval_plans.h"
#include "cli/eval_tasks.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "eval/kld.h"

namespace pith::cli {
namespace {

using Json = nlohmann::ordered_json;
using KldCell = Cell<KldOutcome>;

// Raise it when the same seed no longer gives the same pieces.
constexpr int kTaskVersion = 1;

struct KldFlags {
  EvalFlags eval;
  std::vector<std::string> text;
  int next = 128;
};

Json TaskSettings(const KldFlags& flags, const Model& model, const SessionOptions& options,
                  const std::vector<std::string>& texts) {
  Json json = {"kld",           kTaskVersion, model.info().fingerprint, flags.eval.seed(),
               options.n_batch, flags.next};
  for (const std::string& text : texts) {
    json.push_back(fmt::format("{:016x}", XXH3_64bits(text.data(), text.size())));
  }
  return json;
}

KldSummary SummaryOf(const KldCell& cell, const KldCell& full, const KldFlags& flags) {
  return SummariseKld(full.outcomes, cell.outcomes, flags.eval.seed());
}

Json RecordOf(const KldCell& cell, const KldCell& full, const KldFlags& flags, const Model& model,
              const SessionOptions& options) {
  const KldSummary sum = SummaryOf(cell, full, flags);
  const auto pair = [](const Interval& interval) { return Json{interval.low, interval.high}; };
  Json json;
  json["task"] = "kld";
  AddTried(json, model, cell.length, cell.tried, flags.eval);
  json["next"] = flags.next;
  json["divergence"] = sum.mean;
  json["divergence_interval"] = pair(sum.interval);
  json["divergence_median"] = sum.median;
  json["divergence_p99"] = sum.p99;
  json["divergence_p999"] = sum.p999;
  json["same_top"] = sum.same_top;
  json["same_top_interval"] = pair(sum.same_top_interval);
  json["nll"] = sum.nll;
  json["full_nll"] = sum.full_nll;
  json["nll_increase"] = sum.nll_increase;
  json["nll_increase_interval"] = pair(sum.nll_increase_interval);
  json["perplexity"] = std::exp(sum.nll);
  json["full_perplexity"] = std::exp(sum.full_nll);
  AddMeans(json, MeansOf(cell.outcomes), MeansOf(full.outcomes), flags.eval, options);
  return json;
}

std::string TableOf(const std::vector<KldCell>& cells, const KldFlags& flags) {
  std::vector<std::vector<std::string>> rows = {
      {"length", "scorer", "keep", "budget", "window", "KLD", "95 % interval", "median", "99 %",
       "99.9 %", "same top", "perplexity", "NLL increase", "95 % interval", "kept", "KV"}};
  const KldCell* full = nullptr;
  for (const KldCell& cell : cells) {
    if (cell.tried.full()) full = &cell;
    const KldSummary sum = SummaryOf(cell, *full, flags);
    const ReadingMeans means = MeansOf(cell.outcomes);
    std::vector<std::string> row = PlanCells(cell.tried, cell.length);
    row.push_back(fmt::format("{:.4f}", sum.mean));
    row.push_back(fmt::format("{:.4f}-{:.4f}", sum.interval.low, sum.interval.high));
    for (double value : {sum.median, sum.p99, sum.p999})
      row.push_back(fmt::format("{:.4f}", value));
    row.push_back(fmt::format("{:.1f}%", 100 * sum.same_top));
    row.push_back(fmt::format("{:.2f}", std::exp(sum.nll)));
    row.push_back(fmt::format("{:+.4f}", sum.nll_increase));
    row.push_back(fmt::format("{:+.4f} to {:+.4f}", sum.nll_increase_interval.low,
                              sum.nll_increase_interval.high));
    row.push_back(fmt::format("{:.1f}%", 100 * means.kept_fraction));
    row.push_back(FormatBytes(static_cast<uint64_t>(means.kv_bytes)));
    rows.push_back(std::move(row));
  }
  return Table(rows);
}

}  // namespace

int EvalKld(const EvalTask& task, std::span<char* const> arguments) {
  KldFlags flags;
  CommandLine line(fmt::format("eval {}", task.name), task.summary);
  line.Files("--text", flags.text,
             "text files, or folders of .txt files, to cut pieces from (default: " +
                 std::string(kCheckoutEssays) + " if that is there)");
  line.Option("--next", flags.next, "N", "tokens that are read, and predicted, after compression");
  flags.eval.AddTo(line, "pieces of text of each length");
  line.Footer(
      "--length tokens of plain text are read and compressed; those that follow in the text are "
      "read with the\\ncompressed and with the full cache. Divergence is KL(full || compressed) in "
      "nats; intervals are a bootstrap\\nover pieces. One reading serves all plans; with "
      "--while-reading, --chunkwise or --kv-limit each plan reads\\nanew and evicts on the way.");
  if (!line.Parse(arguments)) return kDone;
  flags.eval.Check();
  if (flags.next < 1 || flags.next > 100000) {
    throw UsageError(fmt::format("--next is {}, expected 1 to 100,000", flags.next));
  }
  const std::vector<std::string> texts = ReadTexts(flags.text, "--text");

  const Model model = flags.eval.LoadModel();
  const SessionOptions options = flags.eval.ForSession(model);
  const KldTask pieces(model.tokenizer(), texts, flags.next, flags.eval.seed());
  const int64_t longest = std::min(pieces.longest(), ContextOf(model, options));
  flags.eval.CheckLengths(2, longest - flags.next - 1,
                          fmt::format("what the context and the longest text ({} tokens) hold with "
                                      "the {} that follow",
                                      pieces.longest(), flags.next + 1));
  const std::vector<TriedPlan> plans = flags.eval.Plans(model, options);
  const Compression compression = flags.eval.compression(plans);
  const auto cells = RunCells<KldOutcome>(
      flags.eval, TaskSettings(flags, model, options, texts), plans, "pieces",
      [&](int trial, int64_t length, std::span<const Plan> missing) {
        return RunKld(model, pieces.Make(trial, length), missing, compression, options);
      });
  if (flags.eval.json()) {
    PrintRecords(cells, [&](const KldCell& cell, const KldCell& full) {
      return RecordOf(cell, full, flags, model, options);
    });
  } else {
    Print(TableOf(cells, flags));
  }
  return kDone;
}

}  // namespace pith::cli
