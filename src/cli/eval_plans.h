// What the tasks of `pith eval` share: flags, the plans that are tried, and going on where a run
// was stopped.
#pragma once

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "cli/options.h"
#include "cli/progress_bar.h"
#include "cli/report.h"
#include "eval/branches.h"
#include "eval/interval.h"
#include "eval/trial_log.h"

namespace pith::cli {

// A plan and how the user named its scorer and calibration.
struct TriedPlan {
  Plan plan;
  std::string calibration;  // file of NAME@FILE, empty: the default one

  bool evicts() const { return plan.keep.kind != Keep::Kind::kAll; }
  bool full() const { return !evicts() && !plan.has_codes(); }
};

class EvalFlags {
 public:
  enum class Tries {
    kPlans,
    kPlansWhileReading,  // as if --while-reading were given, which is not a flag then
    kScorers,            // plans that evict nothing, but have their entries judged
    kKeyCodecs,          // plans that evict nothing and store keys each in its way
  };

  explicit EvalFlags(Tries tries = Tries::kPlans)
      : tries_(tries), while_reading_(tries == Tries::kPlansWhileReading) {
    if (tries == Tries::kKeyCodecs) lists_.key_codecs.clear();
  }

  // --length --trials --first-trial --seed --while-reading --out --json, model and plan. `trials`
  // says in the help what a trial is.
  void AddTo(CommandLine& line, const std::string& trials);
  // Throws UsageError for values that make no sense. Needs no model.
  void Check() const;

  Model LoadModel() const { return model_.Load(); }
  SessionOptions ForSession(const Model& model) const { return model_.ForSession(model); }
  // Without those that are there twice.
  std::vector<int64_t> Lengths() const;
  // Throws UsageError unless all lengths are from `low`, which `why` explains, to `high`.
  void CheckLengths(int64_t low, int64_t high, const std::string& why) const;
  // The full cache, then every scorer with every keep, budget and window; or the scorers alone; or
  // the key codecs.
  // Throws UsageError for one that makes no sense for the model.
  std::vector<TriedPlan> Plans(const Model& model, const SessionOptions& options) const;
  Compression compression(std::span<const TriedPlan> plans) const;

  // 16 hex digits of all that an outcome depends on but length and trial; `task` is what the task
  // adds to it: its version, texts, prompts.
  std::string Settings(const nlohmann::ordered_json& task, const TriedPlan& plan) const;

  uint64_t seed() const { return seed_; }
  int trials() const { return trials_; }
  int first_trial() const { return first_trial_; }
  const std::string& out() const { return out_; }
  bool json() const { return json_; }

 private:
  std::vector<TriedPlan> KeyCodecs(const Model& model) const;
  // All that the lists say.
  std::vector<Storage> Storages() const;

  Tries tries_;
  ModelFlags model_;
  PlanFlags plan_{"25%"};
  PlanLists lists_ = {{"25%"},
                      {kAutoScorer},
                      {Plan().budget},
                      {std::to_string(Plan().window)},
                      {Plan().key_codec},
                      {Plan().value_codec},
                      {}};
  std::vector<std::string> lengths_ = {"2048"};
  std::string out_;
  uint64_t seed_ = 42;
  int trials_ = 40;
  int first_trial_ = 0;
  bool while_reading_;
  bool json_ = false;
};

// length | scorer | keep | budget | window, as a table's cells.
std::vector<std::string> PlanCells(const TriedPlan& plan, int64_t length);
// A Markdown table whose columns line up. The first row is its head; the first cells are a plan's.
std::string Table(const std::vector<std::vector<std::string>>& rows);

// Means over trials, and when the last of them was made.
struct ReadingMeans {
  double kept_fraction = 0;
  double tokens = 0;
  double kv_bytes = 0;
  double read_s = 0;
  double score_s = 0;
  std::vector<std::vector<double>> kept_per_head;  // shares, [n_layers][n_kv_heads]
  std::string date;
};

// Of one trial or more.
ReadingMeans MeansOfReadings(std::span<const ReadingStats> readings);

template <typename Outcome>
ReadingMeans MeansOf(const std::vector<Outcome>& outcomes) {
  return MeansOfReadings(std::vector<ReadingStats>(outcomes.begin(), outcomes.end()));
}

// Tokens that a session may read.
int64_t ContextOf(const Model& model, const SessionOptions& options);

nlohmann::ordered_json Pair(const Interval& interval);  // [low, high]
// `model`, `fingerprint`, `length`, the plan with its `calibration`, `while_reading`.
void AddTried(nlohmann::ordered_json& json, const Model& model, int64_t length,
              const TriedPlan& plan, const EvalFlags& flags);
// `trials`, `first_trial`, `seed`, `threads`, `cpu`, `version`, `date`.
void AddOrigin(nlohmann::ordered_json& json, const EvalFlags& flags, const SessionOptions& options,
               const std::string& date);
// `kept_fraction`, `kept_per_head`, `kv_bytes`, `full_kv_bytes`, `context_tokens`, `read_s`,
// `score_s`, and AddOrigin's.
void AddMeans(nlohmann::ordered_json& json, const ReadingMeans& means, const ReadingMeans& full,
              const EvalFlags& flags, const SessionOptions& options);

// A part of a task, with trials of its own.
struct Subtask {
  std::string name;
  nlohmann::ordered_json settings;  // what an outcome depends on besides plan, length and trial
  int trials = 0;                   // from --first-trial on
};

// One plan at one length, over all trials.
template <typename Outcome>
struct Cell {
  TriedPlan tried;
  int64_t length = 0;
  size_t subtask = 0;
  std::string settings;
  std::vector<Outcome> outcomes;  // [trials]
};

// A list, or the record itself where one cell was asked for.
inline void PrintRecords(const nlohmann::ordered_json& records, bool single) {
  PrintJson(single ? records.back() : records);
}

// Records of all cells as a list, or as one record where one plan was tried at one length.
// `record(cell, full)` makes one, `full` being the cell of the full cache at the same length.
template <typename Outcome, typename Record>
void PrintRecords(const std::vector<Cell<Outcome>>& cells, const Record& record) {
  auto records = nlohmann::ordered_json::array();
  const Cell<Outcome>* full = nullptr;
  int n_lengths = 0;
  for (const Cell<Outcome>& cell : cells) {
    if (cell.tried.full()) {
      full = &cell;
      ++n_lengths;
    }
    records.push_back(record(cell, *full));
  }
  PrintRecords(records, n_lengths == 1 && cells.size() <= 2);
}

template <typename Outcome>
TrialRecord<Outcome> RecordOf(const Cell<Outcome>& cell, int trial, const Outcome& outcome) {
  const Plan& plan = cell.tried.plan;
  TrialRecord<Outcome> record;
  record.settings = cell.settings;
  record.length = cell.length;
  record.trial = trial;
  record.keep = plan.keep.ToString();
  if (!cell.tried.full()) {
    record.scorer = cell.tried.evicts() ? plan.scorer : "none";
    record.calibration = cell.tried.calibration;
    record.budget = plan.budget;
    record.window = plan.window;
    record.key_codec = plan.key_codec;
    record.value_codec = plan.value_codec;
    record.tiers = TiersToString(plan.tiers);
  }
  record.outcome = outcome;
  return record;
}

// For every length, and every subtask, the full cache first, then all other plans; those whose
// settings are the same once. Outcomes that are in the log are taken from there; for the others
// `run(subtask, trial, length, plans)` gives one outcome per plan.
template <typename Outcome, typename Run>
std::vector<Cell<Outcome>> RunSubtasks(const EvalFlags& flags, std::span<const Subtask> subtasks,
                                       std::span<const TriedPlan> plans, const char* label,
                                       const Run& run) {
  struct Job {
    int trial;
    std::vector<Cell<Outcome>*> missing;
  };
  std::vector<Cell<Outcome>> cells;
  int most_trials = 0;
  for (int64_t length : flags.Lengths()) {
    for (size_t i = 0; i < subtasks.size(); ++i) {
      const size_t first = cells.size();
      for (const TriedPlan& tried : plans) {
        Cell<Outcome> cell = {tried, length, i, flags.Settings(subtasks[i].settings, tried), {}};
        const bool known =
            std::any_of(cells.begin() + static_cast<std::ptrdiff_t>(first), cells.end(),
                        [&](const auto& other) { return other.settings == cell.settings; });
        if (known) continue;
        cell.outcomes.resize(static_cast<size_t>(subtasks[i].trials));
        cells.push_back(std::move(cell));
      }
      most_trials = std::max(most_trials, subtasks[i].trials);
    }
  }
  TrialLog<Outcome> log(flags.out());
  std::vector<Job> jobs;
  // All lengths and subtasks of a trial before the next trial, so that the time left is right from
  // the start.
  for (int i = 0; i < most_trials; ++i) {
    for (size_t begin = 0; begin < cells.size();) {
      const int64_t length = cells[begin].length;
      const size_t subtask = cells[begin].subtask;
      Job job = {flags.first_trial() + i, {}};
      for (;
           begin < cells.size() && cells[begin].length == length && cells[begin].subtask == subtask;
           ++begin) {
        Cell<Outcome>& cell = cells[begin];
        if (i >= subtasks[subtask].trials) continue;
        if (const Outcome* known = log.Find(cell.settings, length, job.trial)) {
          cell.outcomes[static_cast<size_t>(i)] = *known;
        } else {
          job.missing.push_back(&cell);
        }
      }
      if (!job.missing.empty()) jobs.push_back(std::move(job));
    }
  }
  ProgressBar bar(label, "trials");
  const auto total = static_cast<int64_t>(jobs.size());
  bar.Show(0, total);
  for (int64_t done = 0; done < total;) {
    const Job& job = jobs[static_cast<size_t>(done)];
    std::vector<Plan> missing;
    for (const Cell<Outcome>* cell : job.missing) missing.push_back(cell->tried.plan);
    const Cell<Outcome>& any = *job.missing.front();
    std::vector<Outcome> outcomes =
        run(any.subtask, job.trial, any.length, std::span<const Plan>(missing));
    for (size_t i = 0; i < outcomes.size(); ++i) {
      log.Add(RecordOf(*job.missing[i], job.trial, outcomes[i]));
      job.missing[i]->outcomes[static_cast<size_t>(job.trial - flags.first_trial())] =
          std::move(outcomes[i]);
    }
    bar.Show(++done, total);
  }
  return cells;
}

// Of a task without parts: `run(trial, length, plans)`.
template <typename Outcome, typename Run>
std::vector<Cell<Outcome>> RunCells(const EvalFlags& flags, const nlohmann::ordered_json& task,
                                    std::span<const TriedPlan> plans, const char* label,
                                    const Run& run) {
  const Subtask whole = {"", task, flags.trials()};
  return RunSubtasks<Outcome>(
      flags, {&whole, 1}, plans, label,
      [&](size_t, int trial, int64_t length, std::span<const Plan> missing) {
        return run(trial, length, missing);
      });
}

}  // namespace pith::cli
