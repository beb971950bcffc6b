// pith compress: a document, read once, as a file.
#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output_file.h"
#include "cli/report.h"
#include "cli/source.h"
#include "cli/verbs.h"

namespace pith::cli {
namespace {

double Percent(uint64_t part, uint64_t whole) {
  return whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

std::string Summary(const Opened& opened, const std::string& target, uint64_t bytes) {
  const CacheStats stats = opened.session.stats();
  const TimeStats times = opened.session.times();
  const auto document = opened.notes.find(kDocumentNote);
  std::string text = fmt::format(
      "{}: {} tokens{}, {} of {} entries kept ({:.1f} %)\n", target, WithCommas(stats.tokens),
      document == opened.notes.end() ? "" : " of " + document->second, WithCommas(stats.entries),
      WithCommas(stats.entries_full),
      Percent(static_cast<uint64_t>(stats.entries), static_cast<uint64_t>(stats.entries_full)));
  text += fmt::format("{} on disk, {:.1f} % of the {} of a full f16 cache\n", FormatBytes(bytes),
                      Percent(bytes, stats.kv_bytes_full), FormatBytes(stats.kv_bytes_full));
  text += fmt::format("read in {}", FormatDuration(times.read_s - times.score_s));
  if (times.score_s > 0) text += fmt::format(", judged in {}", FormatDuration(times.score_s));
  return text + "\n";
}

}  // namespace

int Compress(const Verb& verb, std::span<char* const> arguments) {
  ModelFlags model_flags;
  PlanFlags plan_flags("25%");
  SourceFlags source;
  std::string target;
  bool json = false;
  CommandLine line(verb.name, verb.summary);
  source.AddTo(line, /*required=*/true);
  line.Option("-o,--output", target, "FILE", "the snapshot to write (.pith)");
  source.AddRestTo(line);
  line.Flag("--json", json, "print what was written as JSON");
  model_flags.AddTo(line);
  plan_flags.AddTo(line);
  if (!line.Parse(arguments)) return kDone;
  if (target.empty()) throw UsageError("where to? Give -o FILE.pith");
  if (target == "-") {
    throw UsageError("a snapshot is used where it lies, it cannot go to standard output");
  }
  source.Prepare(line, plan_flags);
  CheckWritable(target);

  const Model model = model_flags.Load();
  const Opened opened = source.Open(model, model_flags, plan_flags, nullptr, {});
  const auto start = std::chrono::steady_clock::now();
  {
    const UninterruptedScope writing;
    opened.session.Save(target, opened.notes);
  }
  const double save_s =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const uint64_t bytes = std::filesystem::file_size(target);
  if (!json) {
    Print(Summary(opened, target, bytes));
    Print(fmt::format("Next: pith ask {} \"QUESTION\"\n", target));
    return kDone;
  }
  const TimeStats times = opened.session.times();
  nlohmann::ordered_json out;
  out["file"] = target;
  out["bytes"] = bytes;
  out["model"] = model.info().name;
  out["document"] = source.name();
  out["document_tokens"] = opened.document_tokens;
  AddCacheStats(out, opened.session.stats());
  out["peak_resident_bytes"] = PeakResidentBytes();
  out["prefill_s"] = times.read_s;
  out["prefill_tps"] = PerSecond(times.read_tokens, times.read_s);
  out["score_s"] = times.score_s;
  out["settle_s"] = times.settle_s;
  out["save_s"] = save_s;
  AddPlan(out, opened.session.plan());
  out["threads"] = model_flags.ForSession(model).n_threads;
  PrintJson(out);
  return kDone;
}

}  // namespace pith::cli
