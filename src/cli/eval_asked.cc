#include "cli/eval_asked.h"

#include <fmt/format.h>

#include "cli/document.h"
#include "cli/report.h"
#include "eval/interval.h"

namespace pith::cli {
namespace {

using Json = nlohmann::ordered_json;
using ScoredCell = Cell<ScoredOutcome>;

// Of one subtask, or of several as one, with one plan at one length.
struct Scores {
  std::vector<std::vector<double>> of_subtasks;  // [n_subtasks][trials], 0 to 100
  std::vector<ScoredOutcome> outcomes;           // of all of them

  void Add(const ScoredCell& cell) {
    std::vector<double>& scores = of_subtasks.emplace_back();
    for (const ScoredOutcome& outcome : cell.outcomes) scores.push_back(100 * outcome.score);
    outcomes.insert(outcomes.end(), cell.outcomes.begin(), cell.outcomes.end());
  }

  double mean() const {
    double mean = 0;
    for (const std::vector<double>& scores : of_subtasks) {
      double sum = 0;
      for (double score : scores) sum += score;
      mean += sum / static_cast<double>(scores.size() * of_subtasks.size());
    }
    return mean;
  }
};

// What is printed: a plan's scores at a length, and those of the full cache.
struct Row {
  std::string subtask;
  const TriedPlan* tried;
  int64_t length;
  Scores scores;
  Scores full;
};

constexpr char kMean[] = "mean";

// A row for every cell, in their order, and after those of a length the means of every plan.
std::vector<Row> RowsOf(const std::vector<Subtask>& subtasks,
                        const std::vector<ScoredCell>& cells) {
  std::vector<Row> rows;
  for (size_t begin = 0; begin < cells.size();) {
    std::vector<Row> means;
    const int64_t length = cells[begin].length;
    const ScoredCell* full = nullptr;
    size_t plan = 0;
    for (; begin < cells.size() && cells[begin].length == length; ++begin) {
      const ScoredCell& cell = cells[begin];
      if (cell.tried.full()) {
        full = &cell;
        plan = 0;
      }
      Row& row = rows.emplace_back(Row{subtasks[cell.subtask].name, &cell.tried, length, {}, {}});
      if (plan == means.size()) means.push_back({kMean, &cell.tried, length, {}, {}});
      for (Row* added : {&row, &means[plan]}) {
        added->scores.Add(cell);
        added->full.Add(*full);
      }
      ++plan;
    }
    if (subtasks.size() > 1) rows.insert(rows.end(), means.begin(), means.end());
  }
  return rows;
}

Json RecordOf(const Row& row, const Benchmark& benchmark) {
  const uint64_t seed = benchmark.flags.seed();
  const auto interval = [&](const Scores& scores) {
    const Interval both = BootstrapMeanOfMeans(scores.of_subtasks, seed);
    return Json{both.low, both.high};
  };
  Json json;
  json["task"] = benchmark.name;
  json["subtask"] = row.subtask;
  AddTried(json, benchmark.model, row.length, *row.tried, benchmark.flags);
  json["chat"] = benchmark.ask.chat();
  json["aware"] = benchmark.ask.aware();
  json["score"] = row.scores.mean();
  json["score_interval"] = interval(row.scores);
  json["full_score"] = row.full.mean();
  json["full_score_interval"] = interval(row.full);
  AddMeans(json, MeansOf(row.scores.outcomes), MeansOf(row.full.outcomes), benchmark.flags,
           benchmark.options);
  json["trials"] = row.scores.outcomes.size();
  return json;
}

std::string TableOf(const std::vector<Row>& rows, uint64_t seed) {
  std::vector<std::vector<std::string>> table = {{"length", "scorer", "keep", "budget", "window",
                                                  "task", "score", "95 % interval", "full cache",
                                                  "trials", "kept", "KV"}};
  for (const Row& row : rows) {
    const Interval interval = BootstrapMeanOfMeans(row.scores.of_subtasks, seed);
    const ReadingMeans means = MeansOf(row.scores.outcomes);
    std::vector<std::string> cells = PlanCells(*row.tried, row.length);
    cells.push_back(row.subtask);
    cells.push_back(fmt::format("{:.1f}", row.scores.mean()));
    cells.push_back(fmt::format("{:.1f}-{:.1f}", interval.low, interval.high));
    cells.push_back(fmt::format("{:.1f}", row.full.mean()));
    cells.push_back(fmt::format("{}", row.scores.outcomes.size()));
    cells.push_back(fmt::format("{:.1f}%", 100 * means.kept_fraction));
    cells.push_back(FormatBytes(static_cast<uint64_t>(means.kv_bytes)));
    table.push_back(std::move(cells));
  }
  return Table(table);
}

}  // namespace

void AskFlags::AddTo(CommandLine& line) {
  line.Flag("--aware", aware_,
            "read the question before compressing, where otherwise the text is compressed before "
            "anything is asked");
  line.Flag("--no-chat", no_chat_, "plain text, no chat template");
  line.Option("--template", template_name_, "NAME",
              "chat template, if the model's own is not known");
}

void AskFlags::Check() const {
  if (no_chat_ && !template_name_.empty()) {
    throw UsageError("--no-chat asks without the template that --template names");
  }
}

PromptFrame AskFlags::Frame(const Model& model) const {
  if (no_chat_) return {};
  return AsUsage([&] {
    return FrameOf(template_name_.empty() ? ChatTemplate::FromSource(model.info().chat_template)
                                          : ChatTemplate::ByName(template_name_));
  });
}

Asking AskFlags::How(const EvalFlags& flags, std::span<const TriedPlan> plans,
                     const SessionOptions& options) const {
  const Asking asking = {flags.compression(plans), aware_, options};
  if (aware_ && asking.compression == Compression::kWhileReading) {
    throw UsageError(
        "--aware asks before anything is evicted, but --while-reading, --chunkwise and --kv-limit "
        "evict before the question is read");
  }
  return asking;
}

void AskFlags::AddSettings(Json& json, const PromptFrame& frame) const {
  for (const auto& side : {frame.before, frame.after}) {
    Json& texts = json.emplace_back(Json::array());
    for (const TextSegment& segment : side) texts.push_back(segment.text);
  }
  if (aware_) json.push_back("aware");
}

std::string ReadData(const std::string& file) {
  try {
    return ReadBytes(file);
  } catch (const Error& error) {
    throw UsageError(error.what());
  }
}

void PrintScores(const Benchmark& benchmark, const std::vector<Subtask>& subtasks,
                 const std::vector<Cell<ScoredOutcome>>& cells) {
  const std::vector<Row> rows = RowsOf(subtasks, cells);
  if (!benchmark.flags.json()) {
    Print(TableOf(rows, benchmark.flags.seed()));
    return;
  }
  Json records = Json::array();
  for (const Row& row : rows) records.push_back(RecordOf(row, benchmark));
  PrintJson(records);
}

}  // namespace pith::cli
