// Flags that several verbs share.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/command_line.h"
#include "cli/scorer_choice.h"
#include "pith/pith.h"

namespace pith::cli {

// -m -c -t -b --no-repack
class ModelFlags {
 public:
  void AddTo(CommandLine& line);      // all of them
  void AddFileTo(CommandLine& line);  // -m only

  // -m, or PITH_MODEL, or the default model of a checkout. Throws UsageError.
  std::filesystem::path File() const;
  Model Load() const;
  // Throws UsageError for a context longer than the model's and other values out of range.
  SessionOptions ForSession(const Model& model) const;

 private:
  std::string file_;
  bool no_repack_ = false;
  int n_ctx_ = 0;
  int n_threads_ = 0;
  int n_batch_ = SessionOptions().n_batch;
};

// What verbs that try several plans take lists of.
struct PlanLists {
  std::vector<std::string> keeps;
  std::vector<std::string> scorers;
  std::vector<std::string> budgets;
  std::vector<std::string> windows;
  std::vector<std::string> key_codecs;
  std::vector<std::string> value_codecs;
  std::vector<std::string> tiers;  // in place of keeps and codecs
};

// A codec where none is named: q8 keys and q4 values, or f16 where a head has a number of
// dimensions that they cannot store (docs/evaluation.md says why not q4 keys).
inline constexpr char kAutoCodec[] = "auto";

// How much stays and as what: a keep and codecs, or tiers.
struct Storage {
  std::string keep;
  std::string key_codec = Plan().key_codec;
  std::string value_codec = Plan().value_codec;
  std::string tiers;
};

// --keep --tiers --scorer --budget --head-floor --chunkwise --window --sinks --skip-layers
// --key-codec --value-codec --calibration --kv-limit
class PlanFlags {
 public:
  PlanFlags() = default;  // everything, in f16
  // For verbs that choose well where nothing is said: the scorer, and codes that cost less than
  // rounding does (docs/evaluation.md).
  explicit PlanFlags(std::string default_keep) : keep_(std::move(default_keep)) {
    plan_.scorer = kAutoScorer;
    plan_.key_codec = plan_.value_codec = kAutoCodec;
  }

  void AddTo(CommandLine& line);
  void AddTo(CommandLine& line, std::vector<std::string>& keeps);  // for verbs that try several
  // The plans made here have the budget "auto"; the verb sets those it tries itself.
  void AddTo(CommandLine& line, PlanLists& lists);
  // --scorer and --calibration only, for verbs that evict nothing.
  void AddScorersTo(CommandLine& line, std::vector<std::string>& scorers);
  // --key-codec and --calibration only, for verbs that measure keys by themselves.
  void AddKeyCodecsTo(CommandLine& line, std::vector<std::string>& key_codecs);
  // These flags with another scorer, window and storage and, unless it is empty, calibration.
  PlanFlags With(const std::string& scorer, int window, const std::string& calibration,
                 const Storage& storage) const;

  // Throws UsageError when one of them was given although `snapshot` brings its own plan; a
  // calibration it does not bring.
  void RefuseBeside(const std::string& snapshot, const CommandLine& line) const;
  // What "auto" means as a scorer where the best one cannot be had; conversations unless said.
  void SetReading(Reading reading) { reading_ = reading; }
  // Nothing is told on standard error: for a process that works for another one.
  void BeQuiet() { quiet_ = true; }

  // Throws UsageError for values that make no sense. Needs no model, so that it can be called
  // first.
  void Check() const { (void)Parsed(keep_); }
  void Check(const std::string& keep) const { (void)Parsed(keep); }

  // The plan, with the scorer chosen and the calibration found if it needs one. Tells once on
  // standard error if a better scorer is missed, or a threshold lets everything or nothing through.
  // Throws UsageError, and Error when there is no calibration or it is another model's.
  Plan ForModel(const Model& model, const std::filesystem::path& model_file) const {
    return ForModel(model, model_file, keep_);
  }
  Plan ForModel(const Model& model, const std::filesystem::path& model_file,
                const std::string& keep) const;
  const std::string& calibration_file() const { return calibration_; }  // "": none was named
  // What `plan` needs, null if nothing. Throws Error when there is none that fits.
  std::shared_ptr<const Calibration> CalibrationFor(const Plan& plan, const Model& model,
                                                    const std::filesystem::path& model_file) const;

 private:
  void AddKeepsTo(CommandLine& line, std::vector<std::string>& keeps);
  void AddBudgetTo(CommandLine& line);
  void AddScorerAndWindowTo(CommandLine& line);
  void AddCalibrationTo(CommandLine& line);
  void AddRestTo(CommandLine& line);
  void AddCodecsTo(CommandLine& line);
  // Tiers and what they are in place of.
  static void ExcludeTiers(CommandLine& line);
  Plan Parsed(const std::string& keep) const;
  std::shared_ptr<const Calibration> GivenCalibration(const Model& model) const;

  std::string keep_ = "100%";
  std::string tiers_;  // empty: keep_ and the plan's codecs
  Plan plan_;
  std::string head_floor_;
  std::string calibration_;
  std::string kv_limit_;
  Reading reading_ = Reading::kConversation;
  bool quiet_ = false;
};

// --temp --top-k --top-p --min-p --repeat-penalty --repeat-last-n --seed
class SamplingFlags {
 public:
  void AddTo(CommandLine& line);
  Sampler Make() const;  // throws UsageError

 private:
  SamplingOptions options_;
};

// A session whose plan was refused is wrong use.
Session MakeSession(const Model& model, const Plan& plan, const SessionOptions& options);

// Reads tokens with a progress bar.
void ReadWithProgress(Session& session, std::span<const Token> tokens,
                      const std::string& label = "reading");
// Reads tokens that are never evicted.
void ReadPinned(Session& session, std::span<const Token> tokens);

}  // namespace pith::cli
