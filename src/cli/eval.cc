// pith eval: what a compressed cache still knows.
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/fail.h"
#include "cli/document.h"
#include "cli/options.h"
#include "cli/progress_bar.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "engine/snapshot_manifest.h"
#include "eval/interval.h"
#include "eval/needle_run.h"
#include "eval/trial_log.h"

namespace pith::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr char kCheckoutEssays[] = ".deps/texts/essays";
// Raise it when the same seed no longer gives the same trials.
constexpr int kTaskVersion = 1;

struct NeedleFlags {
  ModelFlags model;
  PlanFlags plan{"25%", kDocumentScorer};
  std::vector<std::string> lengths = {"2048"};
  std::vector<std::string> keeps = {"25%"};
  std::vector<std::string> budgets = {Plan().budget};
  std::vector<std::string> haystack;
  std::string template_name;
  std::string out;
  uint64_t seed = 42;
  int trials = 40;
  bool no_chat = false;
  bool json = false;
};

// One plan at one length, over all trials.
struct Cell {
  Plan plan;
  int64_t length = 0;
  std::string settings;  // hash of everything an outcome depends on but length and trial
  std::vector<NeedleOutcome> outcomes;

  bool full() const { return plan.keep.kind == Keep::Kind::kAll; }
};

struct Summary {
  int64_t trials = 0;
  int64_t correct = 0;
  double accuracy = 0;
  Interval interval;
  // Means.
  double kept_fraction = 0;
  double tokens = 0;
  double kv_bytes = 0;
  double read_s = 0;
  double score_s = 0;
};

Summary Summarise(const std::vector<NeedleOutcome>& outcomes) {
  Summary sum;
  for (const NeedleOutcome& outcome : outcomes) {
    ++sum.trials;
    sum.correct += outcome.correct ? 1 : 0;
    sum.kept_fraction +=
        static_cast<double>(outcome.entries) / static_cast<double>(outcome.entries_full);
    sum.tokens += static_cast<double>(outcome.tokens);
    sum.kv_bytes += static_cast<double>(outcome.kv_bytes);
    sum.read_s += outcome.read_s;
    sum.score_s += outcome.score_s;
  }
  const auto n = static_cast<double>(sum.trials);
  for (double* mean : {&sum.kept_fraction, &sum.tokens, &sum.kv_bytes, &sum.read_s, &sum.score_s}) {
    *mean /= n;
  }
  sum.accuracy = static_cast<double>(sum.correct) / n;
  sum.interval = WilsonInterval(sum.correct, sum.trials);
  return sum;
}

std::vector<int64_t> ParseLengths(const std::vector<std::string>& texts) {
  std::vector<int64_t> lengths;
  for (const std::string& text : texts) {
    int64_t length = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
    if (error != std::errc() || end != text.data() + text.size() || length < 1) {
      throw UsageError(fmt::format("--length '{}' is not a number of tokens", text));
    }
    if (std::find(lengths.begin(), lengths.end(), length) == lengths.end()) {
      lengths.push_back(length);
    }
  }
  return lengths;
}

void CheckFlags(const NeedleFlags& flags) {
  if (flags.trials < 1 || flags.trials > 100000) {
    throw UsageError(fmt::format("--trials is {}, expected 1 to 100,000", flags.trials));
  }
  if (flags.no_chat && !flags.template_name.empty()) {
    throw UsageError("--no-chat asks without the template that --template names");
  }
  for (const std::string& keep : flags.keeps) flags.plan.Check(keep);
  const std::vector<std::string> budgets = BudgetNames();
  for (const std::string& budget : flags.budgets) {
    if (std::find(budgets.begin(), budgets.end(), budget) == budgets.end()) {
      throw UsageError(
          fmt::format("there is no budget '{}', only {}", budget, fmt::join(budgets, ", ")));
    }
  }
}

// The files named; of a folder all its .txt files.
std::vector<std::string> ReadHaystack(std::vector<std::string> names) {
  std::error_code ignored;
  if (names.empty()) {
    if (!fs::is_directory(kCheckoutEssays, ignored)) {
      throw UsageError("which text to hide needles in? Give --haystack FILES");
    }
    names.emplace_back(kCheckoutEssays);
  }
  const auto read = [](const fs::path& file) {
    try {
      return ReadDocument(file);
    } catch (const Error& error) {
      throw UsageError(error.what());
    }
  };
  std::vector<std::string> documents;
  for (const std::string& name : names) {
    if (!fs::is_directory(name, ignored)) {
      documents.push_back(read(name));
      continue;
    }
    std::vector<fs::path> files;
    for (const fs::directory_entry& entry : fs::directory_iterator(name)) {
      if (entry.path().extension() == ".txt") files.push_back(entry.path());
    }
    if (files.empty()) throw UsageError(fmt::format("there is no .txt file in {}", name));
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files) documents.push_back(read(file));
  }
  return documents;
}

PromptFrame ChooseFrame(const NeedleFlags& flags, const Model& model) {
  if (flags.no_chat) return {};
  return AsUsage([&] {
    return FrameOf(flags.template_name.empty()
                       ? ChatTemplate::FromSource(model.info().chat_template)
                       : ChatTemplate::ByName(flags.template_name));
  });
}

std::string Settings(const NeedleFlags& flags, const Model& model, const SessionOptions& options,
                     const Haystack& haystack, const PromptFrame& frame, const Plan& plan) {
  Json json = {kTaskVersion, model.info().fingerprint, haystack.hash(), flags.seed,
               options.n_batch};
  for (const auto& side : {frame.before, frame.after}) {
    Json& texts = json.emplace_back(Json::array());
    for (const TextSegment& segment : side) texts.push_back(segment.text);
  }
  if (plan.keep.kind != Keep::Kind::kAll) {
    AddPlan(json.emplace_back(Json::object()), plan);
    json.push_back({plan.budget, plan.head_floor, plan.seed, plan.chunkwise, plan.kv_limit});
    if (plan.calibration) json.push_back(CalibrationDigest(plan));
  }
  const std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  return fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
}

// For every length the full cache, then every keep with every budget.
std::vector<Cell> MakeCells(const NeedleFlags& flags, const std::vector<int64_t>& lengths,
                            const std::vector<Plan>& plans,
                            const std::vector<std::string>& settings) {
  std::vector<Cell> cells;
  for (int64_t length : lengths) {
    for (size_t i = 0; i < plans.size(); ++i) {
      cells.push_back({plans[i], length, settings[i], {}});
      cells.back().outcomes.resize(static_cast<size_t>(flags.trials));
    }
  }
  return cells;
}

std::vector<Plan> MakePlans(const NeedleFlags& flags, const Model& model,
                            const SessionOptions& options) {
  std::vector<Plan> plans = {Plan()};
  for (const std::string& keep : flags.keeps) {
    for (const std::string& budget : flags.budgets) {
      Plan plan = flags.plan.ForModel(model, flags.model.File(), keep);
      plan.budget = budget;
      MakeSession(model, plan, options);  // refuses what makes no sense before the first minute
      plans.push_back(std::move(plan));
    }
  }
  return plans;
}

TrialRecord RecordOf(const Cell& cell, const NeedleTrial& trial, int index) {
  TrialRecord record;
  record.settings = cell.settings;
  record.length = cell.length;
  record.trial = index;
  record.keep = cell.plan.keep.ToString();
  if (!cell.full()) {
    record.scorer = cell.plan.scorer;
    record.budget = cell.plan.budget;
  }
  record.key = trial.key;
  record.value = trial.value;
  record.depth = trial.depth;
  record.outcome = cell.outcomes[static_cast<size_t>(index)];
  return record;
}

// Runs one trial at one length for the cells that the log does not have it of.
void RunTrial(const Model& model, const NeedleTask& task, int index, std::span<Cell* const> missing,
              const SessionOptions& options, TrialLog& log) {
  std::vector<Plan> plans;
  for (const Cell* cell : missing) plans.push_back(cell->plan);
  const Plan& last = plans.back();  // not the full cache if there is another
  const Compression compression =
      last.chunkwise || last.kv_limit > 0 ? Compression::kWhileReading : Compression::kAfterReading;
  const NeedleTrial trial = task.Make(index, missing.front()->length);
  const std::vector<NeedleOutcome> outcomes = RunNeedle(model, trial, plans, compression, options);
  for (size_t i = 0; i < missing.size(); ++i) {
    missing[i]->outcomes[static_cast<size_t>(index)] = outcomes[i];
    log.Add(RecordOf(*missing[i], trial, index));
  }
}

void RunAll(const NeedleFlags& flags, const Model& model, const NeedleTask& task,
            const SessionOptions& options, std::vector<Cell>& cells, size_t cells_per_length) {
  struct Job {
    int index;
    std::vector<Cell*> missing;
  };
  TrialLog log(flags.out);
  std::vector<Job> jobs;
  // All lengths of a trial before the next trial, so that the time left is right from the start.
  for (int index = 0; index < flags.trials; ++index) {
    for (size_t first = 0; first < cells.size(); first += cells_per_length) {
      Job job = {index, {}};
      for (Cell& cell : std::span(cells).subspan(first, cells_per_length)) {
        if (const NeedleOutcome* known = log.Find(cell.settings, cell.length, index)) {
          cell.outcomes[static_cast<size_t>(index)] = *known;
        } else {
          job.missing.push_back(&cell);
        }
      }
      if (!job.missing.empty()) jobs.push_back(std::move(job));
    }
  }
  ProgressBar bar("needles", "trials");
  const auto total = static_cast<int64_t>(jobs.size());
  bar.Show(0, total);
  for (int64_t done = 0; done < total;) {
    const Job& job = jobs[static_cast<size_t>(done)];
    RunTrial(model, task, job.index, job.missing, options, log);
    bar.Show(++done, total);
  }
}

Json ToJson(const Cell& cell, const Summary& full, const NeedleFlags& flags, const Model& model,
            const SessionOptions& options) {
  const Summary sum = Summarise(cell.outcomes);
  Json out;
  out["task"] = "niah_single_2";
  out["model"] = model.info().name;
  out["length"] = cell.length;
  AddPlan(out, cell.plan);
  out["accuracy"] = sum.accuracy;
  out["interval"] = {sum.interval.low, sum.interval.high};
  out["correct"] = sum.correct;
  out["trials"] = sum.trials;
  out["full_accuracy"] = full.accuracy;
  out["full_interval"] = {full.interval.low, full.interval.high};
  out["kept_fraction"] = sum.kept_fraction;
  out["kv_bytes"] = sum.kv_bytes;
  out["full_kv_bytes"] = full.kv_bytes;
  out["context_tokens"] = sum.tokens;
  out["read_s"] = sum.read_s;
  out["score_s"] = sum.score_s;
  out["chat"] = !flags.no_chat;
  out["seed"] = flags.seed;
  out["threads"] = options.n_threads;
  out["cpu"] = CpuName();
  return out;
}

std::string Table(std::span<const Cell> cells) {
  std::string table = fmt::format(
      "{:>8}  {:<26}  {:>8}  {:>13}  {:>7}  {:>6}  {:>10}  {:>7}  {:>7}\n", "length", "plan",
      "accuracy", "95 % interval", "correct", "kept", "KV", "read s", "score s");
  for (const Cell& cell : cells) {
    const Summary sum = Summarise(cell.outcomes);
    const std::string plan = cell.full() ? "full cache"
                                         : fmt::format("{} {} {}", cell.plan.scorer,
                                                       cell.plan.keep.ToString(), cell.plan.budget);
    table += fmt::format(
        "{:>8}  {:<26}  {:>7.1f}%  {:>13}  {:>7}  {:>5.1f}%  {:>10}  {:>7.2f}  {:>7.2f}\n",
        WithCommas(cell.length), plan, 100 * sum.accuracy,
        fmt::format("{:.1f}-{:.1f}%", 100 * sum.interval.low, 100 * sum.interval.high),
        fmt::format("{}/{}", sum.correct, sum.trials), 100 * sum.kept_fraction,
        FormatBytes(static_cast<uint64_t>(sum.kv_bytes)), sum.read_s, sum.score_s);
  }
  return table;
}

void PrintRecords(std::span<const Cell> cells, size_t cells_per_length, const NeedleFlags& flags,
                  const Model& model, const SessionOptions& options) {
  Json records = Json::array();
  Summary full;
  for (size_t i = 0; i < cells.size(); ++i) {
    if (i % cells_per_length == 0) full = Summarise(cells[i].outcomes);
    records.push_back(ToJson(cells[i], full, flags, model, options));
  }
  // One question, one answer: the full cache's accuracy stands beside it.
  const bool single = cells.size() == cells_per_length && cells_per_length <= 2;
  PrintJson(single ? records.back() : records);
}

int Needle(const Verb& verb, std::span<char* const> arguments) {
  NeedleFlags flags;
  CommandLine line(
      fmt::format("{} needle", verb.name),
      "hide a number in a long text, compress, then ask for it (RULER's niah_single_2)");
  line.List("-l,--length", flags.lengths, "N,...", "tokens of the prompt with its answer");
  line.Option("--trials", flags.trials, "N", "needles hidden at each length");
  line.Option("-s,--seed", flags.seed, "N",
              "seed of keys, values, depths and texts, the same ones for every plan");
  line.Files("--haystack", flags.haystack,
             "text files, or folders of .txt files, to hide the numbers in (default: " +
                 std::string(kCheckoutEssays) + " if that is there)");
  line.Flag("--no-chat", flags.no_chat, "plain text, no chat template");
  line.Option("--template", flags.template_name, "NAME",
              "chat template, if the model's own is not known");
  line.Option("--out", flags.out, "FILE",
              "append every finished trial as a JSON line; trials that are there are not repeated");
  line.Flag("--json", flags.json, "print a list of records, or one record if one plan is tried");
  flags.model.AddTo(line);
  flags.plan.AddTo(line, flags.keeps, flags.budgets);
  line.Footer(
      "The text is compressed before the question is read; the question and the answer, greedy, "
      "stay "
      "whole.\nThe full cache is always measured too. One reading serves all plans; with "
      "--chunkwise "
      "each plan\nreads anew and evicts on the way.");
  if (!line.Parse(arguments)) return kDone;
  CheckFlags(flags);
  const std::vector<int64_t> lengths = ParseLengths(flags.lengths);
  const Haystack haystack(ReadHaystack(flags.haystack));

  const Model model = flags.model.Load();
  const SessionOptions options = flags.model.ForSession(model);
  const PromptFrame frame = ChooseFrame(flags, model);
  const NeedleTask task(model.tokenizer(), frame, haystack, flags.seed);
  const int64_t n_ctx = options.n_ctx > 0 ? options.n_ctx : model.info().n_ctx_train;
  for (int64_t length : lengths) {
    if (length < task.min_length() || length > n_ctx) {
      throw UsageError(fmt::format(
          "--length is {}, expected from {}, which the question takes, to the context of {} tokens",
          length, task.min_length(), n_ctx));
    }
  }
  std::vector<Plan> plans;
  std::vector<std::string> settings;
  for (Plan& plan : MakePlans(flags, model, options)) {
    std::string hash = Settings(flags, model, options, haystack, frame, plan);
    if (std::find(settings.begin(), settings.end(), hash) != settings.end()) continue;
    settings.push_back(std::move(hash));
    plans.push_back(std::move(plan));
  }
  std::vector<Cell> cells = MakeCells(flags, lengths, plans, settings);
  RunAll(flags, model, task, options, cells, plans.size());
  if (flags.json) {
    PrintRecords(cells, plans.size(), flags, model, options);
  } else {
    Print(Table(cells));
  }
  return kDone;
}

}  // namespace

int Eval(const Verb& verb, std::span<char* const> arguments) {
  const std::string_view task = arguments.empty() ? std::string_view() : arguments.front();
  if (task == "needle") return Needle(verb, arguments.subspan(1));
  if (task == "--help" || task == "-h") {
    Print(fmt::format(
        "pith {}: {}\n\nUsage: pith {} TASK [OPTIONS]\n\n"
        "  needle      hide a number in a long text, compress, then ask for it\n\n"
        "  pith {} TASK --help    says what a task takes: --model (or $PITH_MODEL), --json, ...\n",
        verb.name, verb.summary, verb.name, verb.name));
    return kDone;
  }
  throw UsageError(
      fmt::format("there is no task '{}', only needle (see pith {} --help)", task, verb.name));
}

}  // namespace pith::cli
