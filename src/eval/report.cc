#include "eval/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <set>

#include "base/fail.h"
#include "eval/report_cells.h"
#include "eval/report_rows.h"
#include "eval/report_shares.h"
#include "eval/report_tasks.h"

namespace pith {
namespace {

using Json = nlohmann::ordered_json;
using Format = ReportFormat;
using Records = ReportRecords;

// Columns in which no row has anything are left out.
ReportTable WithoutEmptyColumns(ReportTable table) {
  for (size_t i = table.columns.size(); i-- > 0;) {
    if (std::any_of(table.rows.begin(), table.rows.end(),
                    [&](const auto& row) { return !row[i].shown.empty(); })) {
      continue;
    }
    const auto at = static_cast<std::ptrdiff_t>(i);
    table.columns.erase(table.columns.begin() + at);
    for (auto& row : table.rows) row.erase(row.begin() + at);
  }
  return table;
}

ReportTable TableOf(const std::string& id, const std::string& title, const Records& records,
                    const TaskReport& task, const ReportRows& rows, bool subtasks) {
  ReportTable table = {id, title, rows.Columns(subtasks, task.tried), {}};
  for (const EvalRecord* record : records) table.rows.push_back(rows.Cells(*record, subtasks));
  std::vector<ReportMeasure> all = task.measures;
  for (const ReportMeasure& measure :
       std::initializer_list<ReportMeasure>{{"kept_fraction", nullptr, "kept", Format::kPercent},
                                            {"kv_bytes", nullptr, "KV, MiB", Format::kMiB},
                                            {"trials", nullptr, "trials", Format::kCount},
                                            {"read_s", nullptr, "read, s", Format::kSeconds},
                                            {"score_s", nullptr, "score, s", Format::kSeconds}}) {
    all.push_back(measure);
  }
  for (const ReportMeasure& measure : all) {
    const auto add = [&](const ReportColumn& column, const auto& value_of) {
      table.columns.push_back(column);
      for (size_t i = 0; i < records.size(); ++i) {
        table.rows[i].push_back(CellOf(value_of(*records[i]), measure.format));
      }
    };
    add({measure.title, {measure.field}},
        [&](const EvalRecord& record) { return NumberOf(record, measure.field); });
    add(IntervalColumn(measure.field),
        [&](const EvalRecord& record) { return IntervalOf(record, measure.interval); });
  }
  return WithoutEmptyColumns(std::move(table));
}

// `y`, `low`, `high`; nothing where the record has no value.
std::optional<Json> Point(const EvalRecord& record, const std::string& panel, const char* field,
                          const char* interval_field) {
  const std::optional<double> value = NumberOf(record, field);
  if (!value) return std::nullopt;
  Json point = {{"panel", panel}, {"y", *value}};
  if (const auto interval = IntervalOf(record, interval_field)) {
    point["low"] = interval->low;
    point["high"] = interval->high;
  }
  return point;
}

void AddPlan(Json& point, const EvalRecord& record, const ReportRows& rows) {
  point["plan"] = rows.Plan(record);
  point["scorer"] = rows.Scorer(record);
  point["variant"] = rows.Variant(record);
}

std::optional<ReportFigure> Lines(const std::string& id, const char* tried,
                                  const ReportCurve& curve, const Records& records,
                                  const ReportRows& rows) {
  Json points = Json::array();
  Json full = Json::array();
  for (const EvalRecord* record : records) {
    std::optional<Json> point = Point(*record, rows.Panel(*record), curve.field, curve.interval);
    if (!point) continue;
    if (record->full()) {
      full.push_back(*point);
      continue;
    }
    AddPlan(*point, *record, rows);
    if (const auto x = NumberOf(*record, curve.against ? curve.against : "kept_fraction")) {
      (*point)[curve.against ? "x" : "share"] = *x;
    }
    if (const auto bytes = NumberOf(*record, "kv_bytes")) (*point)["mib"] = *bytes / (1 << 20);
    if (point->contains("x") || point->contains("share") || point->contains("mib")) {
      points.push_back(*point);
    }
  }
  if (points.empty()) return std::nullopt;
  if (curve.relative) full = Json::array();
  Json x;  // null: the reader chooses
  if (curve.against) x = {{"title", curve.against_axis}};
  return ReportFigure{id + "_" + curve.field,
                      "lines",
                      curve.title,
                      full.empty() ? "" : "Dashed: the full cache, its interval shaded.",
                      {{"x", x},
                       {"tried", tried},
                       {"y",
                        {{"title", curve.axis},
                         {"percent", curve.percent},
                         {"log", curve.log},
                         {"most", curve.most}}},
                       {"points", points},
                       {"full", full}}};
}

// Scores by subtask, a panel for every share kept.
std::optional<ReportFigure> SubtaskBars(const TaskReport& task, const Records& records,
                                        const ReportRows& rows) {
  const char* field = task.measures.front().field;
  const char* interval = task.measures.front().interval;
  const auto panel = [&](const EvalRecord& record, const std::string& keep) {
    const std::string text = rows.Panel(record);
    return text + (text.empty() ? "keep " : ", keep ") + keep;
  };
  Json bars = Json::array();
  std::map<std::string, std::set<std::string>> keeps;  // by what the full cache shares
  for (const EvalRecord* record : records) {
    if (record->full()) continue;
    auto bar = Point(*record, panel(*record, record->keep), field, interval);
    if (!bar) continue;
    AddPlan(*bar, *record, rows);
    (*bar)["category"] = record->subtask;
    keeps[rows.Panel(*record)].insert(record->keep);
    bars.push_back(*bar);
  }
  if (bars.empty()) return std::nullopt;
  Json full = Json::array();
  for (const EvalRecord* record : records) {
    if (!record->full()) continue;
    for (const std::string& keep : keeps[rows.Panel(*record)]) {
      auto mark = Point(*record, panel(*record, keep), field, interval);
      if (!mark) continue;
      (*mark)["category"] = record->subtask;
      full.push_back(*mark);
    }
  }
  const bool ruler = task.id == std::string_view("ruler");
  return ReportFigure{fmt::format("{}_subtasks", task.id),
                      "bars",
                      ruler ? "Scores by subtask" : "Scores by dataset",
                      full.empty() ? "" : "Upright lines: the full cache.",
                      {{"y", {{"title", "score (0 to 100)"}, {"percent", false}, {"most", 100}}},
                       {"points", bars},
                       {"full", full}}};
}

std::optional<ReportFigure> CorrelationBars(const Records& records, const ReportRows& rows) {
  Json bars = Json::array();
  for (const EvalRecord* record : records) {
    if (record->full()) continue;
    auto bar = Point(*record, rows.Panel(*record), "spearman", "spearman_interval");
    if (!bar) continue;
    AddPlan(*bar, *record, rows);
    (*bar)["category"] = rows.Scorer(*record);
    bars.push_back(*bar);
  }
  if (bars.empty()) return std::nullopt;
  return ReportFigure{"spearman_bars",
                      "bars",
                      "Mean over layers and heads",
                      "",
                      {{"y", {{"title", "Spearman's rho"}, {"percent", false}, {"most", 1}}},
                       {"points", bars},
                       {"full", Json::array()}}};
}

std::string TitleOf(const std::string& plan, const std::string& panel) {
  return panel.empty() ? plan : plan + ", " + panel;
}

void AddDepths(ReportSection& section, const Records& records, const ReportRows& rows) {
  Json cells = Json::array();
  Json full = Json::array();
  ReportTable table = {
      "needle_depths", "Needles found by depth", rows.Columns(false, "scorer"), {}};
  table.columns.push_back({"depth", {"depth"}});
  table.columns.push_back({"found", {"correct"}});
  table.columns.push_back({"of", {"trials"}});
  table.columns.push_back({"accuracy", {"accuracy"}});
  table.columns.push_back(IntervalColumn("accuracy"));
  for (const EvalRecord* record : records) {
    for (const DepthOutcome& depth : record->by_depth) {
      std::vector<ReportCell> row = rows.Cells(*record, false);
      std::optional<double> share;
      if (depth.trials > 0) {
        share = static_cast<double>(depth.correct) / static_cast<double>(depth.trials);
      }
      const Interval interval = WilsonInterval(depth.correct, depth.trials);
      row.push_back({fmt::format("{:.0f}%", 100 * depth.depth), {Exact(depth.depth)}});
      row.push_back(CellOf(static_cast<double>(depth.correct), Format::kCount));
      row.push_back(CellOf(static_cast<double>(depth.trials), Format::kCount));
      row.push_back(CellOf(share, Format::kPercent));
      row.push_back(CellOf(std::optional(interval), Format::kPercent));
      table.rows.push_back(std::move(row));
      if (!share || !record->length) continue;
      Json cell = {{"panel", TitleOf(rows.Plan(*record), rows.Panel(*record, false))},
                   {"keep", record->full() ? "" : record->keep},
                   {"x", *record->length},
                   {"y", depth.depth},
                   {"value", *share},
                   {"low", interval.low},
                   {"high", interval.high},
                   {"of", depth.trials}};
      (record->full() ? full : cells).push_back(std::move(cell));
    }
  }
  if (table.rows.empty()) return;
  // Last, so that what is before it falls into rows of a plan each.
  cells.insert(cells.end(), full.begin(), full.end());
  section.figures.push_back({"needle_depths",
                             "heat",
                             "Needles found by depth and length",
                             "",
                             {{"x", {{"title", "length (tokens)"}}},
                              {"y", {{"title", "depth (%)"}, {"percent", true}}},
                              {"value", {{"title", "found (%)"}, {"percent", true}}},
                              {"domain", {0, 1}},
                              {"points", cells}}});
  section.tables.push_back(WithoutEmptyColumns(std::move(table)));
}

using Heads = std::vector<std::vector<double>>;

// A map of layers and KV heads per record, and the table of it.
void AddHeads(ReportSection& section, const std::string& id, const std::string& title,
              std::string caption, const Records& records,
              const std::function<const Heads&(const EvalRecord&)>& heads_of, const Json& value,
              const Json& domain, const char* tried, const ReportRows& rows) {
  size_t n_heads = 0;
  for (const EvalRecord* record : records) {
    for (const auto& layer : heads_of(*record)) n_heads = std::max(n_heads, layer.size());
  }
  std::set<std::string> panels;
  for (const EvalRecord* record : records) panels.insert(rows.Panel(*record));
  const bool one_panel = panels.size() == 1;
  if (one_panel && !panels.begin()->empty()) caption += fmt::format(" At {}.", *panels.begin());
  const bool percent = value["percent"].get<bool>();
  Json cells = Json::array();
  ReportTable table = {id, title, rows.Columns(false, tried), {}};
  table.columns.push_back({"layer", {"layer"}});
  for (size_t head = 0; head < n_heads; ++head) {
    table.columns.push_back({fmt::format("head {}", head), {fmt::format("head_{}", head)}});
  }
  for (const EvalRecord* record : records) {
    const Heads& heads = heads_of(*record);
    for (size_t layer = 0; layer < heads.size(); ++layer) {
      std::vector<ReportCell> row = rows.Cells(*record, false);
      row.push_back(CellOf(static_cast<double>(layer), Format::kCount));
      for (size_t head = 0; head < n_heads; ++head) {
        const bool there = head < heads[layer].size() && !std::isnan(heads[layer][head]);
        row.push_back(CellOf(there ? std::optional(heads[layer][head]) : std::nullopt,
                             percent ? Format::kPercent : Format::kRho));
        if (!there) continue;
        cells.push_back(
            {{"panel", TitleOf(rows.Plan(*record), one_panel ? "" : rows.Panel(*record))},
             {"keep", record->keep},
             {"x", layer},
             {"y", head},
             {"value", heads[layer][head]}});
      }
      table.rows.push_back(std::move(row));
    }
  }
  if (cells.empty()) return;
  section.figures.push_back({id,
                             "heat",
                             title,
                             caption,
                             {{"x", {{"title", "layer"}}},
                              {"y", {{"title", "KV head"}, {"percent", false}}},
                              {"value", value},
                              {"domain", domain},
                              {"points", cells}}});
  section.tables.push_back(WithoutEmptyColumns(std::move(table)));
}

bool HeadsDiffer(const EvalRecord& record) {
  double least = 1;
  double most = 0;
  for (const auto& layer : record.kept_per_head) {
    for (double share : layer) {
      least = std::min(least, share);
      most = std::max(most, share);
    }
  }
  return most - least >= 0.005;
}

// Shares are told by every task; one task, and its longest texts, are enough to see them.
ReportSection HeadBudgets(const ReportRows& rows) {
  ReportSection section = {"heads",
                           "Entries kept per head",
                           "How a budget shares what is kept among layers and KV heads, as means "
                           "over trials.",
                           {},
                           {}};
  for (const TaskReport& task : TaskReports()) {
    std::map<std::string, int64_t> longest;  // by model and what else tells panels apart
    Records chosen;
    int64_t even = 0;
    for (const bool choose : {false, true}) {
      for (const EvalRecord& record : rows.records()) {
        const bool wanted = record.task == task.tasks.front() && !record.full() &&
                            !record.kept_per_head.empty() &&
                            (record.subtask.empty() || record.subtask == "mean");
        if (!wanted) continue;
        int64_t& length = longest[rows.Panel(record, false)];
        if (!choose) {
          length = std::max(length, record.length.value_or(0));
        } else if (record.length.value_or(0) == length) {
          if (HeadsDiffer(record)) {
            chosen.push_back(&record);
          } else {
            ++even;
          }
        }
      }
    }
    if (chosen.empty()) continue;
    std::string caption = fmt::format("As measured by {}.", task.tasks.front());
    if (even > 0) {
      caption += fmt::format(" {} whose heads all keep the same share {} left out.",
                             even == 1 ? "One plan" : fmt::format("{} plans", even),
                             even == 1 ? "is" : "are");
    }
    AddHeads(
        section, "heads_kept", "Share of entries kept", caption, chosen,
        [](const EvalRecord& record) -> const Heads& { return record.kept_per_head; },
        {{"title", "kept (%)"}, {"percent", true}}, {0, 1}, task.tried, rows);
    break;
  }
  return section;
}

ReportSection SectionOf(const TaskReport& task, const ReportRows& rows) {
  ReportSection section = {task.id, task.title, task.note, {}, {}};
  Records whole;
  Records parts;
  for (const EvalRecord& record : rows.records()) {
    if (std::find(task.tasks.begin(), task.tasks.end(), record.task) == task.tasks.end()) continue;
    const bool is_whole = record.subtask.empty() || record.subtask == "mean";
    (is_whole ? whole : parts).push_back(&record);
  }
  for (const ReportCurve& curve : task.curves) {
    if (auto figure = Lines(task.id, task.tried, curve, whole, rows)) {
      section.figures.push_back(std::move(*figure));
    }
  }
  if (task.id == std::string_view("spearman")) {
    if (auto figure = CorrelationBars(whole, rows)) section.figures.push_back(std::move(*figure));
  }
  if (!whole.empty()) {
    if (auto table = SharesTable(task, whole, rows)) section.tables.push_back(std::move(*table));
    section.tables.push_back(TableOf(task.id, task.title, whole, task, rows, false));
  }
  if (task.heads.title != nullptr) {
    AddHeads(
        section, fmt::format("{}_heads", task.id), task.heads.title, "", whole,
        [](const EvalRecord& record) -> const Heads& { return record.per_head; },
        {{"title", task.heads.value}, {"percent", false}}, {task.heads.least, task.heads.most},
        task.tried, rows);
  }
  AddDepths(section, whole, rows);
  if (!parts.empty()) {
    if (auto figure = SubtaskBars(task, parts, rows)) section.figures.push_back(std::move(*figure));
    section.tables.push_back(TableOf(fmt::format("{}_subtasks", task.id),
                                     fmt::format("{}, one by one", task.title), parts, task, rows,
                                     true));
  }
  return section;
}

// What the records say of it, each value once.
std::string Origins(const std::vector<EvalRecord>& records, const std::string& name) {
  std::vector<std::string> values;
  for (const EvalRecord& record : records) {
    const auto found = record.origin.find(name);
    if (found == record.origin.end()) continue;
    if (std::find(values.begin(), values.end(), found->second) == values.end()) {
      values.push_back(found->second);
    }
  }
  if (name == "date" && values.size() > 1) {
    const auto [first, last] = std::minmax_element(values.begin(), values.end());
    return *first + " to " + *last;
  }
  std::string text;
  for (const std::string& value : values) text += (text.empty() ? "" : "; ") + value;
  return text;
}

std::string Models(const std::vector<EvalRecord>& records) {
  std::vector<std::string> models;
  for (const EvalRecord& record : records) {
    const auto print = record.origin.find("fingerprint");
    std::string model = record.model;
    if (print != record.origin.end()) model += fmt::format(" ({})", print->second);
    if (std::find(models.begin(), models.end(), model) == models.end()) models.push_back(model);
  }
  std::string text;
  for (const std::string& model : models) text += (text.empty() ? "" : "; ") + model;
  return text;
}

}  // namespace

Report MakeReport(std::vector<EvalRecord> records) {
  if (records.empty()) Fail(ErrorCode::kInvalidArgument, "there is no record to report");
  const int64_t replaced = KeepLast(records);
  Report report;
  const auto fact = [&](const char* name, const std::string& value) {
    if (!value.empty()) report.facts.emplace_back(name, value);
  };
  fact("model", Models(records));
  fact("pith", Origins(records, "version"));
  fact("CPU", Origins(records, "cpu"));
  fact("threads", Origins(records, "threads"));
  fact("seed", Origins(records, "seed"));
  fact("date", Origins(records, "date"));
  fact("records", fmt::format("{}", records.size()));
  if (replaced > 0) {
    report.notes.push_back(
        fmt::format("{} measured again later; the last record counts.",
                    replaced == 1 ? "One record was" : fmt::format("{} records were", replaced)));
  }
  const ReportRows rows(std::move(records));
  report.scorers = rows.scorers();
  report.variants = rows.variants();
  for (const TaskReport& task : TaskReports()) {
    ReportSection section = SectionOf(task, rows);
    if (!section.tables.empty()) report.sections.push_back(std::move(section));
  }
  ReportSection heads = HeadBudgets(rows);
  if (!heads.tables.empty()) report.sections.push_back(std::move(heads));
  return report;
}

}  // namespace pith
