#include "cli/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <set>
#include <system_error>

#include "base/fail.h"
#include "cache/quantised_codec.h"
#include "cli/calibration_search.h"
#include "cli/progress_bar.h"
#include "cli/report.h"
#include "engine/plan_calibration.h"

namespace pith::cli {
namespace {

constexpr char kCheckoutModel[] = "models/SmolLM2-135M-Instruct.Q4_1.gguf";

void CheckAtLeast(const char* flag, int64_t value, int64_t low) {
  if (value < low) throw UsageError(fmt::format("{} is {}, expected {} or more", flag, value, low));
}

std::string JoinedScorers() { return fmt::format("{}", fmt::join(ScorerNames(), ", ")); }
std::string JoinedBudgets() { return fmt::format("{}", fmt::join(BudgetNames(), ", ")); }

double ParseHeadFloor(const std::string& text) {
  double value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0 && value <= 1)) {
    throw UsageError(fmt::format("--head-floor is '{}', expected a number from 0 to 1", text));
  }
  return value;
}

void CheckKnown(const char* what, const std::string& name, const std::vector<std::string>& names) {
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    throw UsageError(
        fmt::format("there is no {} '{}', only {}", what, name, fmt::join(names, ", ")));
  }
}

// At most once in a process, however many plans it makes.
void TellOnce(const std::string& sentence) {
  static std::set<std::string> told;
  if (!sentence.empty() && told.insert(sentence).second) {
    fmt::print(stderr, "pith: {}\n", sentence);
  }
}

// Empty unless a threshold is beyond all that the scorer is known to give.
std::string TauNotice(const Plan& plan) {
  switch (ReachOfTau(plan)) {
    case TauReach::kBelowAll:
      return fmt::format("{} is below everything that {} gives (from {:.2f}): it keeps all",
                         plan.keep.ToString(), plan.scorer, WorthQuantiles(plan).front());
    case TauReach::kAboveAll:
      return fmt::format(
          "{} is above everything that {} gives (up to {:.2f}): it keeps nothing but sinks and "
          "window",
          plan.keep.ToString(), plan.scorer, WorthQuantiles(plan).back());
    case TauReach::kWithin:
    case TauReach::kUnknown:
      break;
  }
  return {};
}

void AddScorerListTo(CommandLine& line, std::vector<std::string>& scorers) {
  line.List("--scorer", scorers, "NAME,...",
            "which entries stay, each tried in turn: " + JoinedScorers() +
                "; NAME@FILE takes another calibration for it");
}

}  // namespace

void ModelFlags::AddFileTo(CommandLine& line) {
  line.Option(
      "-m,--model", file_, "FILE",
      "GGUF model (default: $PITH_MODEL, or " + std::string(kCheckoutModel) + " if that is there)");
}

void ModelFlags::AddTo(CommandLine& line) {
  line.Group("Model");
  AddFileTo(line);
  line.Option("-c,--ctx-size", n_ctx_, "N", "longest sequence in tokens, 0: the model's own");
  line.Option("-t,--threads", n_threads_, "N", "threads, 0: one per core");
  line.Option("-b,--batch-size", n_batch_, "N", "tokens of a prompt that are read at once");
  line.Flag("--no-repack", no_repack_,
            "use the weights as they lie in the file: less memory, often slower");
}

std::filesystem::path ModelFlags::File() const {
  if (!file_.empty()) return file_;
  const char* environment = std::getenv("PITH_MODEL");
  if (environment != nullptr && *environment != '\0') return environment;
  std::error_code error;
  if (std::filesystem::exists(kCheckoutModel, error)) return kCheckoutModel;
  throw UsageError("which model? Give -m FILE.gguf or set PITH_MODEL");
}

Model ModelFlags::Load() const {
  ModelOptions options;
  options.repack = !no_repack_;
  return Model::Load(File(), options);
}

SessionOptions ModelFlags::ForSession(const Model& model) const {
  CheckAtLeast("--ctx-size", n_ctx_, 0);
  CheckAtLeast("--threads", n_threads_, 0);
  CheckAtLeast("--batch-size", n_batch_, 1);
  if (n_threads_ > 1024)
    throw UsageError(fmt::format("--threads is {}, expected up to 1024", n_threads_));
  if (n_ctx_ > model.info().n_ctx_train) {
    throw UsageError(fmt::format("--ctx-size is {}, but the model was trained for {} tokens",
                                 n_ctx_, model.info().n_ctx_train));
  }
  SessionOptions options;
  options.n_batch = n_batch_;
  options.n_threads = n_threads_ > 0 ? n_threads_ : DefaultThreads();
  options.n_ctx = n_ctx_;
  return options;
}

void PlanFlags::AddTo(CommandLine& line) {
  line.Group("KV cache");
  line.Option("--keep", keep_, "SIZE",
              "what stays of the cache: a fraction (25%), entries per head (512), bytes in all "
              "(64MiB), or what the scorer finds worth as much (tau=-4)");
  AddBudgetTo(line);
  AddScorerAndWindowTo(line);
  AddCodecsTo(line);
  AddRestTo(line);
}

void PlanFlags::AddTo(CommandLine& line, std::vector<std::string>& keeps) {
  AddKeepsTo(line, keeps);
  AddBudgetTo(line);
  AddScorerAndWindowTo(line);
  AddCodecsTo(line);
  AddRestTo(line);
}

void PlanFlags::AddTo(CommandLine& line, PlanLists& lists) {
  AddKeepsTo(line, lists.keeps);
  line.List("--budget", lists.budgets, "NAME,...",
            "who shares what stays, each tried in turn: " + JoinedBudgets());
  AddScorerListTo(line, lists.scorers);
  line.List("--window", lists.windows, "N,...",
            "most recent entries, never dropped, each tried in turn");
  line.List("--key-codec", lists.key_codecs, "NAME,...",
            "how keys are stored once they have left the window, each tried in turn: f16, q8, q4, "
            "or pq8xM, pq4xM, lrR and lrRq4, for which the calibration needs codebooks");
  line.List("--value-codec", lists.value_codecs, "NAME,...", "the same of values: f16, q8, q4");
  line.Repeated("--tiers", lists.tiers, "SPEC",
                "instead of --keep and codecs, what is kept as what: KEYS/VALUES:SHARE, the best "
                "first, the rest dropped (f16:10%,q8:15%,pq8x16/q4:50%); given again, another one "
                "to try");
  ExcludeTiers(line);
  AddRestTo(line);
}

void PlanFlags::AddScorersTo(CommandLine& line, std::vector<std::string>& scorers) {
  line.Group("Scorers");
  AddScorerListTo(line, scorers);
  AddCalibrationTo(line);
}

void PlanFlags::AddKeyCodecsTo(CommandLine& line, std::vector<std::string>& key_codecs) {
  line.Group("Codecs");
  line.List(
      "--key-codec", key_codecs, "NAME,...",
      "how keys are stored, each tried in turn: q8, q4, int2, lrR or lrRq4 (R directions of a "
      "head), and pq8xM or pq4xM of which the calibration has a codebook; NAME@FILE takes "
      "another calibration for it (default: all but lr)");
  line.Option(
      "--calibration", calibration_, "FILE",
      "calibration with codebooks, as pith calibrate --codebooks makes it (default: the one "
      "that fits the model, beside it or installed with pith)");
}

PlanFlags PlanFlags::With(const std::string& scorer, int window, const std::string& calibration,
                          const Storage& storage) const {
  PlanFlags flags = *this;
  flags.plan_.scorer = scorer;
  flags.plan_.window = window;
  flags.keep_ = storage.keep;
  flags.plan_.key_codec = storage.key_codec;
  flags.plan_.value_codec = storage.value_codec;
  flags.tiers_ = storage.tiers;
  if (!calibration.empty()) flags.calibration_ = calibration;
  return flags;
}

void PlanFlags::AddKeepsTo(CommandLine& line, std::vector<std::string>& keeps) {
  line.Group("KV cache");
  line.List("--keep", keeps, "SIZE,...",
            "what stays of the cache, each tried in turn: fractions (25%), entries per head (512), "
            "bytes in all (64MiB), or what the scorer finds worth as much (tau=-4)");
}

void PlanFlags::AddBudgetTo(CommandLine& line) {
  line.Option(
      "--budget", plan_.budget, "NAME",
      "who shares what stays: " + JoinedBudgets() +
          " (auto: all heads of the model where the scorer can compare them; threshold, with a "
          "fraction: the cache grows with what is read)");
}

void PlanFlags::AddScorerAndWindowTo(CommandLine& line) {
  line.Option("--scorer", plan_.scorer, "NAME",
              "which entries stay: " + JoinedScorers() +
                  " (auto: kvzap if the model has a surrogate for it, otherwise what is best "
                  "without)");
  line.Option("--window", plan_.window, "N", "most recent entries, never dropped");
}

void PlanFlags::AddRestTo(CommandLine& line) {
  line.Option("--head-floor", head_floor_, "X",
              "part of an even share that every head keeps whatever the others need, 0 to 1 "
              "(default: 0.2 with --budget adaptive, else 0)");
  line.Flag("--chunkwise", plan_.chunkwise,
            "scorers that repeat the text: judge and evict every 2,048 tokens, for documents whose "
            "whole cache does not fit into memory");
  line.Option("--sinks", plan_.sinks, "N", "first entries, never dropped");
  line.Option("--skip-layers", plan_.skip_layers, "N", "first layers, left whole");
  AddCalibrationTo(line);
  line.Option("--kv-limit", kv_limit_, "SIZE", "bytes the cache may allocate, such as 512MiB");
}

void PlanFlags::AddCodecsTo(CommandLine& line) {
  line.Option(
      "--tiers", tiers_, "SPEC",
      "instead of --keep and codecs, what is kept as what: KEYS/VALUES:SHARE, the best first, "
      "the rest dropped (f16:10%,q8:15%,pq8x16/q4:50%)");
  line.Option(
      "--key-codec", plan_.key_codec, "NAME",
      "how keys are stored once they have left the window: f16, q8, q4, or pq8xM, pq4xM, lrR "
      "and lrRq4, for which the calibration needs codebooks (auto: q8)");
  line.Option("--value-codec", plan_.value_codec, "NAME",
              "the same of values: f16, q8, q4 (auto: q4)");
  ExcludeTiers(line);
}

void PlanFlags::ExcludeTiers(CommandLine& line) {
  for (const char* flag : {"--keep", "--key-codec", "--value-codec"}) line.Exclude("--tiers", flag);
}

void PlanFlags::AddCalibrationTo(CommandLine& line) {
  line.Option(
      "--calibration", calibration_, "FILE",
      "calibration for the scorers qfilter, qfilter+, kvzap, kvzap+ and "
      "expected_calibrated, and for pq and lr key codecs (default: the one that fits the model, "
      "beside it or installed with pith)");
}

Plan PlanFlags::Parsed(const std::string& keep) const {
  return AsUsage([&] {
    Plan plan = plan_;
    plan.tiers = tiers_.empty() ? std::vector<Tier>() : ParseTiers(tiers_);
    plan.keep = tiers_.empty() ? Keep::Parse(keep) : KeepOf(plan.tiers);
    if (!kv_limit_.empty()) plan.kv_limit = ParseBytes(kv_limit_);
    CheckAtLeast("--window", plan.window, 1);
    CheckAtLeast("--sinks", plan.sinks, 0);
    CheckAtLeast("--skip-layers", plan.skip_layers, 0);
    const int64_t kept_always = int64_t{plan.sinks} + plan.window;
    if (plan.keep.kind == Keep::Kind::kEntries && plan.keep.entries < kept_always) {
      throw UsageError(fmt::format(
          "--keep {} is smaller than the {} entries that always stay ({} sinks and a window of {})",
          plan.keep.entries, kept_always, plan.sinks, plan.window));
    }
    if (plan.scorer != kAutoScorer) CheckKnown("scorer", plan.scorer, ScorerNames());
    CheckKnown("budget", plan.budget, BudgetNames());
    if (!head_floor_.empty()) plan.head_floor = ParseHeadFloor(head_floor_);
    return plan;
  });
}

Plan PlanFlags::ForModel(const Model& model, const std::filesystem::path& model_file,
                         const std::string& keep) const {
  Plan plan = Parsed(keep);
  const bool codes = plan.tiers.empty() && QuantisedCodec::Stores(model.info().head_dim);
  if (plan.key_codec == kAutoCodec) plan.key_codec = codes ? "q8" : "f16";
  if (plan.value_codec == kAutoCodec) plan.value_codec = codes ? "q4" : "f16";
  if (plan.scorer == kAutoScorer) {
    Plan whole = plan;
    whole.keep = Keep();
    CalibrationFor(whole, model, model_file);  // for want of codebooks no scorer is the worse one
    ScorerChoice choice = ChooseScorer(model, model_file, plan, reading_, GivenCalibration(model));
    plan.scorer = choice.scorer;
    plan.calibration = choice.calibration;
    if (!quiet_) TellOnce(choice.notice);
  }
  if (!plan.calibration) plan.calibration = CalibrationFor(plan, model, model_file);
  if (!quiet_) TellOnce(TauNotice(plan));
  return plan;
}

std::shared_ptr<const Calibration> PlanFlags::GivenCalibration(const Model& model) const {
  if (calibration_.empty()) return nullptr;
  auto calibration = std::make_shared<const Calibration>(Calibration::Load(calibration_));
  calibration->CheckFits(model.info());
  return calibration;
}

std::shared_ptr<const Calibration> PlanFlags::CalibrationFor(
    const Plan& plan, const Model& model, const std::filesystem::path& model_file) const {
  if (!calibration_.empty()) return GivenCalibration(model);
  if (!NeedsCalibration(plan)) return nullptr;
  std::shared_ptr<const Calibration> calibration = FindCalibration(model, model_file, plan);
  const std::vector<CalibrationPart> missing = MissingParts(calibration.get(), plan);
  if (missing.empty()) return calibration;
  Fail(ErrorCode::kNotFound,
       "no calibration with {} fits {}: make one with {}, or choose a scorer and codecs that need "
       "none",
       missing.front().name, model_file.string(), CalibrateCommand(missing.front(), model_file));
}

void PlanFlags::RefuseBeside(const std::string& snapshot, const CommandLine& line) const {
  for (const char* flag :
       {"--keep", "--tiers", "--scorer", "--budget", "--head-floor", "--chunkwise", "--window",
        "--sinks", "--skip-layers", "--key-codec", "--value-codec", "--kv-limit"}) {
    if (line.Given(flag)) {
      throw UsageError(fmt::format(
          "{} is for reading a document; {} is a snapshot and has its own plan (see pith inspect)",
          flag, snapshot));
    }
  }
}

void SamplingFlags::AddTo(CommandLine& line) {
  line.Group("Sampling");
  line.Option("--temp", options_.temperature, "X", "temperature, 0: always the likeliest token");
  line.Option("--top-k", options_.top_k, "N", "choose among the N likeliest tokens, 0: off");
  line.Option("--top-p", options_.top_p, "X",
              "choose among the likeliest tokens that reach this probability, 1: off");
  line.Option("--min-p", options_.min_p, "X",
              "choose among tokens at least this much as likely as the likeliest, 0: off");
  line.Option("--repeat-penalty", options_.repeat_penalty, "X",
              "make tokens that were just used less likely, 1: off");
  line.Option("--repeat-last-n", options_.repeat_last_n, "N",
              "tokens the penalty looks at, 0: none, -1: all");
  line.Option("-s,--seed", options_.seed, "N", "seed of the random choice");
}

Sampler SamplingFlags::Make() const {
  return AsUsage([&] { return Sampler(options_); });
}

Session MakeSession(const Model& model, const Plan& plan, const SessionOptions& options) {
  return AsUsage([&] { return Session(model, plan, options); });
}

void ReadWithProgress(Session& session, std::span<const Token> tokens, const std::string& label) {
  ProgressBar bar(label, "tokens");
  ReadOptions options;
  options.progress = [&](int64_t done, int64_t total) {
    bar.Show(done, total);
    return true;
  };
  session.Read(tokens, options);
}

void ReadPinned(Session& session, std::span<const Token> tokens) {
  ReadOptions options;
  options.pin = true;
  session.Read(tokens, options);
}

}  // namespace pith::cli
