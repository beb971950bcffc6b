// pith calibrate: a model's Q-Filters, its KVzap surrogate or codebooks for its keys, from a
// corpus.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "calibrate/metadata_keys.h"
#include "cli/calibration_search.h"
#include "cli/document.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output_file.h"
#include "cli/progress_bar.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "pith/error.h"

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

struct KvzapFlags {
  std::string form;  // "linear" or "mlp"; empty: Q-Filters are made
  std::string work;
  KvzapOptions options;
};

// R2 of every layer in rows of five layers, the heads of each side by side.
std::string QualityTable(std::span<const float> r2, int n_layers, int n_kv_heads) {
  constexpr int kAcross = 5;
  std::string table =
      fmt::format("R2 on held-out prompts, mean {:.3f}; by layer and KV head:\n",
                  std::accumulate(r2.begin(), r2.end(), 0.0) / static_cast<double>(r2.size()));
  for (int layer = 0; layer < n_layers; ++layer) {
    table += fmt::format("{}{:3}:", layer % kAcross == 0 ? "" : "  ", layer);
    for (int h = 0; h < n_kv_heads; ++h) {
      table += fmt::format(" {:5.2f}", r2[size_t{1} * layer * n_kv_heads + h]);
    }
    if (layer % kAcross == kAcross - 1 || layer + 1 == n_layers) table += '\n';
  }
  return table;
}

// The calibration of which everything is kept but what is made: the one given, or else the file
// that is replaced, if it is this model's, or else the one that fits the model and holds what
// `plan` needs. Empty if there is none.
Calibration KeptCalibration(const std::string& given, const std::string& target, const Plan& plan,
                            const ModelFlags& model_flags, const Model& model) {
  if (!given.empty()) {
    Calibration calibration = Calibration::Load(given);
    calibration.CheckFits(model.info());
    return calibration;
  }
  std::error_code error;
  const bool is_own =
      fs::equivalent(target, fs::path(model_flags.File()).replace_extension(".pithcal"), error);
  try {
    Calibration calibration = Calibration::Load(target);
    calibration.CheckFits(model.info());
    return calibration;
  } catch (const Error&) {  // nothing of this model's: it is replaced
    if (is_own) return {};  // and the search below would find it again
  }
  const auto found = FindCalibration(model, model_flags.File(), plan);
  return found && HoldsFor(*found, plan) ? *found : Calibration();
}

// Q-Filters and what comes with them, beside what else `kept` holds.
Calibration MakeFilters(const Model& model, std::span<const std::string> texts,
                        const CalibrateOptions& options, Calibration kept) {
  ProgressBar bar("calibrating", "tokens");
  Calibration calibration = Calibrate(model, texts, options, [&](int64_t done, int64_t total) {
    bar.Show(done, total);
    return true;
  });
  calibration.kvzap_plus = std::move(kept.kvzap_plus);
  calibration.kvzap = std::move(kept.kvzap);
  calibration.codebooks = std::move(kept.codebooks);
  for (const auto& [key, value] : kept.metadata) {
    if (key.starts_with("kvzap_") || key.starts_with("codebooks_")) {
      calibration.metadata[key] = value;
    }
  }
  return calibration;
}

void MakeCodebooks(const Model& model, std::span<const std::string> texts,
                   const CodebookOptions& options, Calibration& calibration) {
  // The one bar after the other.
  auto bar = std::make_unique<ProgressBar>("reading", "tokens");
  bool trains = false;
  CodebookProgress progress;
  progress.read = [&](int64_t done, int64_t total) {
    bar->Show(done, total);
    return true;
  };
  progress.train = [&](int64_t done, int64_t total) {
    if (!std::exchange(trains, true)) {
      bar.reset();
      bar = std::make_unique<ProgressBar>("training", "heads");
    }
    bar->Show(done, total);
    return true;
  };
  CalibrateCodebooks(model, texts, options, calibration, progress);
}

KvzapQuality MakeSurrogate(const Model& model, std::span<const std::string> texts,
                           const KvzapFlags& flags, Calibration& calibration) {
  // The one bar after the other.
  auto bar = std::make_unique<ProgressBar>("judging", "tokens");
  bool trains = false;
  KvzapProgress progress;
  progress.harvest = [&](int64_t done, int64_t total) {
    bar->Show(done, total);
    return true;
  };
  progress.train = [&](int64_t done, int64_t total) {
    if (!std::exchange(trains, true)) {
      bar.reset();
      bar = std::make_unique<ProgressBar>("training", "layers");
    }
    bar->Show(done, total);
    return true;
  };
  return CalibrateKvzap(model, texts, flags.options, calibration, progress);
}

}  // namespace

int CalibrateModel(const Verb& verb, std::span<char* const> arguments) {
  ModelFlags model_flags;
  CalibrateOptions options;
  std::vector<std::string> corpus;
  std::string target;
  std::string from;
  bool json = false;
  CommandLine line(verb.name, verb.summary);
  model_flags.AddFileTo(line);
  line.Files("--corpus", corpus, "text files, each a document");
  line.Option("-o,--output", target, "FILE", "the calibration to write (.pithcal)");
  line.Option("-s,--seed", options.seed, "N", "seed of the sampling");
  line.Option("-t,--threads", options.n_threads, "N", "threads, 0: one per core");
  line.Option("--from", from, "FILE",
              "calibration of which everything is kept but what is made (default: the file that is "
              "replaced, or the one that fits the model)");
  line.Flag("--json", json, "print what was written as JSON");
  line.Group("Q-Filters");
  line.Option("--sequences", options.n_sequences, "N", "sequences taken from the corpus");
  line.Option("--sequence-tokens", options.sequence_tokens, "N", "tokens of a sequence");
  line.Option("--rows", options.rows_per_head, "N", "queries sampled for each query head");
  line.Option("--curves", options.n_curves, "N",
              "of the sequences, those that loss curves (qfilter+) are measured on");
  line.Flag("--covariance", options.covariance,
            "keep all of the queries' covariance (expected_calibrated, qfilter+), not only the "
            "variances");
  CodebookOptions codebooks;
  line.Group("Codebooks");
  line.List("--codebooks", codebooks.codecs, "CODEC",
            "make codebooks for these key codecs instead, pq8xM or pq4xM with M subspaces, and the "
            "directions of lrR (and 8 sequences rather than 20)");
  KvzapFlags kvzap;
  line.Group("KVzap");
  line.Option("--kvzap", kvzap.form, "FORM",
              "train a surrogate for the scorer kvzap instead, linear or mlp, or plus for kvzap+");
  line.Option(
      "--work", kvzap.work, "FOLDER",
      "where samples are kept, so that a killed run goes on (default: the output's name and "
      ".work)");
  line.Option("--prompts", kvzap.options.n_prompts, "N", "prompts that are judged for it");
  line.Option("--positions", kvzap.options.n_positions, "N", "samples of each prompt");
  line.Option("--min-tokens", kvzap.options.min_tokens, "N", "shortest prompt");
  line.Option("--max-tokens", kvzap.options.max_tokens, "N", "longest prompt");
  line.Option("--epochs", kvzap.options.epochs, "N", "passes over the samples, for mlp");
  if (!line.Parse(arguments)) return kDone;
  if (corpus.empty()) throw UsageError("which text? Give --corpus FILES");
  if (target.empty()) throw UsageError("where to? Give -o FILE.pithcal");
  if (options.n_sequences < 1 || options.sequence_tokens < 1 || options.rows_per_head < 1 ||
      options.n_curves < 1 || options.n_threads < 0) {
    throw UsageError("--sequences, --sequence-tokens, --rows and --curves must be 1 or more");
  }
  if (!kvzap.form.empty() && kvzap.form != "linear" && kvzap.form != "mlp" &&
      kvzap.form != "plus") {
    throw UsageError(fmt::format("--kvzap is '{}', expected linear, mlp or plus", kvzap.form));
  }
  if (!kvzap.form.empty() && options.covariance) {
    throw UsageError(
        "--covariance goes with the Q-Filters, not with --kvzap; make one after another");
  }
  const bool makes_codebooks = !codebooks.codecs.empty();
  if (makes_codebooks && (!kvzap.form.empty() || options.covariance)) {
    throw UsageError("--codebooks goes without --kvzap and --covariance; make one after another");
  }
  if (options.n_threads == 0) options.n_threads = DefaultThreads();
  CheckWritable(target);
  std::vector<std::string> texts;
  for (const std::string& file : corpus) texts.push_back(ReadDocument(file));

  const Model model = model_flags.Load();
  const auto start = std::chrono::steady_clock::now();
  KvzapQuality quality;
  Plan other;  // which needs what is not made
  other.keep.kind = Keep::Kind::kFraction;
  other.scorer = kvzap.form.empty() ? "kvzap" : "qfilter";
  Calibration calibration = KeptCalibration(from, target, other, model_flags, model);
  if (makes_codebooks) {
    if (line.Given("--sequences")) codebooks.n_sequences = options.n_sequences;
    codebooks.sequence_tokens = options.sequence_tokens;
    codebooks.seed = options.seed;
    codebooks.n_threads = options.n_threads;
    AsUsage([&] { MakeCodebooks(model, texts, codebooks, calibration); });
  } else if (kvzap.form.empty()) {
    calibration = MakeFilters(model, texts, options, std::move(calibration));
  } else {
    kvzap.options.mlp = kvzap.form == "mlp";
    kvzap.options.plus = kvzap.form == "plus";
    kvzap.options.seed = options.seed;
    kvzap.options.n_threads = options.n_threads;
    kvzap.options.work_folder = kvzap.work.empty() ? target + ".work" : kvzap.work;
    quality = MakeSurrogate(model, texts, kvzap, calibration);
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  calibration.metadata[makes_codebooks      ? kCodebooksCorpusKey
                       : kvzap.form.empty() ? kCorpusKey
                       : kvzap.options.plus ? kKvzapPlusCorpusKey
                                            : kKvzapCorpusKey] = Names(corpus);
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
    if (!kvzap.form.empty()) out["r2"] = quality.mean_r2;
    if (kvzap.options.plus) out["received_r2"] = quality.mean_received_r2;
    out["metadata"] = calibration.metadata;
    PrintJson(out);
  } else if (makes_codebooks) {
    Print(fmt::format("{}: codebooks of {} layers x {} KV heads, {}, from {} keys a head in {}\n",
                      target, calibration.n_layers, calibration.n_kv_heads, FormatBytes(bytes),
                      calibration.metadata[kCodebooksKeysKey], FormatDuration(seconds)));
  } else if (!kvzap.form.empty()) {
    Print(QualityTable(quality.r2, calibration.n_layers, calibration.n_kv_heads));
    if (kvzap.options.plus) {
      Print("Of what later queries look at: " +
            QualityTable(quality.received_r2, calibration.n_layers, calibration.n_kv_heads));
    }
    Print(fmt::format("{}: {} surrogate of {} layers x {} KV heads, {}, from {} prompts in {}\n",
                      target, kvzap.form, calibration.n_layers, calibration.n_kv_heads,
                      FormatBytes(bytes), kvzap.options.n_prompts, FormatDuration(seconds)));
  } else {
    Print(fmt::format("{}: filters of {} layers x {} KV heads, {}, from {} sequences in {}{}\n",
                      target, calibration.n_layers, calibration.n_kv_heads, FormatBytes(bytes),
                      options.n_sequences, FormatDuration(seconds),
                      calibration.kvzap ? "; the surrogate was kept" : ""));
  }
  return kDone;
}

}  // namespace pith::cli
