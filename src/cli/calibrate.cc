// pith calibrate: a model's Q-Filters from a corpus.
#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "calibrate/metadata_keys.h"
#include "cli/document.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output_file.h"
#include "cli/progress_bar.h"
#include "cli/report.h"
#include "cli/verbs.h"

namespace pith::cli {
namespace {

namespace fs = std::filesystem;

std::string Names(const std::vector<std::string>& files) {
  std::string names;
  for (const std::string& file : files) {
    names += (names.empty() ? "" : " ") + fs::path(file).filename().string();
  }
  return names;
}

}  // namespace

int CalibrateModel(const Verb& verb, std::span<char* const> arguments) {
  ModelFlags model_flags;
  CalibrateOptions options;
  std::vector<std::string> corpus;
  std::string target;
  bool json = false;
  CommandLine line(verb.name, verb.summary);
  model_flags.AddFileTo(line);
  line.Files("--corpus", corpus, "text files, each a document");
  line.Option("-o,--output", target, "FILE", "the calibration to write (.pithcal)");
  line.Option("--sequences", options.n_sequences, "N", "sequences taken from the corpus");
  line.Option("--sequence-tokens", options.sequence_tokens, "N", "tokens of a sequence");
  line.Option("--rows", options.rows_per_head, "N", "queries sampled for each query head");
  line.Option("-s,--seed", options.seed, "N", "seed of the sampling");
  line.Option("-t,--threads", options.n_threads, "N", "threads, 0: one per core");
  line.Flag("--json", json, "print what was written as JSON");
  if (!line.Parse(arguments)) return kDone;
  if (corpus.empty()) throw UsageError("which text? Give --corpus FILES");
  if (target.empty()) throw UsageError("where to? Give -o FILE.pithcal");
  if (options.n_sequences < 1 || options.sequence_tokens < 1 || options.rows_per_head < 1 ||
      options.n_threads < 0) {
    throw UsageError("--sequences, --sequence-tokens and --rows must be 1 or more");
  }
  if (options.n_threads == 0) options.n_threads = DefaultThreads();
  CheckWritable(target);
  std::vector<std::string> texts;
  for (const std::string& file : corpus) texts.push_back(ReadDocument(file));

  const Model model = model_flags.Load();
  const auto start = std::chrono::steady_clock::now();
  Calibration calibration = [&] {
    ProgressBar bar("calibrating", "tokens");
    return Calibrate(model, texts, options, [&](int64_t done, int64_t total) {
      bar.Show(done, total);
      return true;
    });
  }();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  calibration.metadata[kCorpusKey] = Names(corpus);
  {
    const UninterruptedScope writing;
    calibration.Save(target);
  }

  std::error_code ignored;
  const uint64_t bytes = fs::file_size(target, ignored);
  if (json) {
    nlohmann::ordered_json out;
    out["file"] = target;
    out["bytes"] = bytes;
    out["n_layers"] = calibration.n_layers;
    out["n_kv_heads"] = calibration.n_kv_heads;
    out["head_dim"] = calibration.head_dim;
    out["seconds"] = seconds;
    out["metadata"] = calibration.metadata;
    PrintJson(out);
  } else {
    Print(fmt::format("{}: filters of {} layers x {} KV heads, {}, from {} sequences in {}\n",
                      target, calibration.n_layers, calibration.n_kv_heads, FormatBytes(bytes),
                      options.n_sequences, FormatDuration(seconds)));
  }
  return kDone;
}

}  // namespace pith::cli
