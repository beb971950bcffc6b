// pith eval kld: how far predictions move.
#include "eval/kld.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/eval_plans.h"
#include "cli/eval_tasks.h"
#include "cli/eval_texts.h"
#include "cli/output_file.h"
#include "cli/progress_bar.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "eval/kld_base.h"

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
  std::string base;
  std::string save_base;
};

// Has the full cache read every piece, each of `length` tokens to compress and those that follow.
void SaveBase(const KldFlags& flags, const TextTask& text) {
  const std::vector<int64_t> lengths = flags.eval.Lengths();
  const auto n_pieces = static_cast<int>(lengths.size()) * flags.eval.trials();
  KldBaseWriter writer(flags.save_base, text.model().info(), flags.next, n_pieces);
  ProgressBar bar("base", "pieces");
  int done = 0;
  bar.Show(done, n_pieces);
  for (int64_t length : lengths) {
    for (int i = 0; i < flags.eval.trials(); ++i) {
      const int trial = flags.eval.first_trial() + i;
      const TextPiece piece = text.pieces().Make(trial, length + flags.next + 1);
      writer.Add(length, trial, piece,
                 PredictFull(text.model(), piece, flags.next, text.options()));
      bar.Show(++done, n_pieces);
    }
  }
  writer.Commit();
}

KldSummary SummaryOf(const KldCell& cell, const KldCell& full, const KldFlags& flags) {
  return SummariseKld(full.outcomes, cell.outcomes, flags.eval.seed());
}

Json RecordOf(const KldCell& cell, const KldCell& full, const KldFlags& flags, const Model& model,
              const SessionOptions& options) {
  const KldSummary sum = SummaryOf(cell, full, flags);
  Json json;
  json["task"] = "kld";
  AddTried(json, model, cell.length, cell.tried, flags.eval);
  json["next"] = flags.next;
  json["divergence"] = sum.mean;
  json["divergence_interval"] = Pair(sum.interval);
  json["divergence_median"] = sum.median;
  json["divergence_p99"] = sum.p99;
  json["divergence_p999"] = sum.p999;
  json["same_top"] = sum.same_top;
  json["same_top_interval"] = Pair(sum.same_top_interval);
  json["nll"] = sum.nll.mean;
  json["full_nll"] = sum.nll.baseline;
  json["nll_increase"] = sum.nll.increase;
  json["nll_increase_interval"] = Pair(sum.nll.increase_interval);
  json["perplexity"] = std::exp(sum.nll.mean);
  json["perplexity_interval"] = {std::exp(sum.nll.interval.low), std::exp(sum.nll.interval.high)};
  json["full_perplexity"] = std::exp(sum.nll.baseline);
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
    row.push_back(fmt::format("{:.2f}", std::exp(sum.nll.mean)));
    row.push_back(fmt::format("{:+.4f}", sum.nll.increase));
    row.push_back(fmt::format("{:+.4f} to {:+.4f}", sum.nll.increase_interval.low,
                              sum.nll.increase_interval.high));
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
  AddTextFlag(line, flags.text);
  line.Option("--next", flags.next, "N", "tokens that are read, and predicted, after compression");
  line.Option("--save-base", flags.save_base, "FILE",
              "first have the full cache predict all pieces, and keep that in FILE (16 bits for "
              "each token of the vocabulary)");
  line.Option("--base", flags.base, "FILE",
              "compare with what is in FILE; the full cache reads nothing itself");
  flags.eval.AddTo(line, "pieces of text of each length");
  line.Footer(
      "--length tokens of plain text are read and compressed; those that follow in the text are "
      "read with the\ncompressed and with the full cache. Divergence is KL(full || compressed) in "
      "nats; intervals are a bootstrap\nover pieces. One reading serves all plans; with "
      "--while-reading, --chunkwise or --kv-limit each plan reads\nanew and evicts on the way.");
  if (!line.Parse(arguments)) return kDone;
  flags.eval.Check();
  if (flags.next < 1 || flags.next > 100000) {
    throw UsageError(fmt::format("--next is {}, expected 1 to 100,000", flags.next));
  }
  if (!flags.base.empty() && !flags.save_base.empty()) {
    throw UsageError("--save-base makes the file that --base would read, expected one of the two");
  }
  if (!flags.save_base.empty()) CheckWritable(flags.save_base);
  const TextTask text(flags.text, flags.eval);
  const Model& model = text.model();
  const SessionOptions& options = text.options();
  text.CheckLengths(2, "", flags.next + 1);
  const std::vector<TriedPlan> plans = flags.eval.Plans(model, options);
  const Compression compression = flags.eval.compression(plans);
  Json settings = text.Settings("kld", kTaskVersion);
  settings.push_back(options.n_batch);
  settings.push_back(flags.next);
  if (!flags.save_base.empty()) SaveBase(flags, text);
  std::optional<KldBase> base;
  const std::string& file = flags.base.empty() ? flags.save_base : flags.base;
  if (!file.empty()) {
    base = KldBase::Open(file, model.info());
    settings.push_back("base");  // whose predictions are rounded
  }
  const auto cells = RunCells<KldOutcome>(
      flags.eval, settings, plans, "pieces",
      [&](int trial, int64_t length, std::span<const Plan> missing) {
        const TextPiece piece = text.pieces().Make(trial, length + flags.next + 1);
        if (!base) return RunKld(model, piece, flags.next, missing, compression, options);
        const FullPredictions full = base->Find(length, trial, piece, flags.next);
        return RunKld(model, piece, flags.next, missing, compression, options, &full);
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
