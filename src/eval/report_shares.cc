#include "eval/report_shares.h"

#include <fmt/format.h>

#include <algorithm>

namespace pith {
namespace {

ReportCell Glance(const EvalRecord& record, const ReportMeasure& measure) {
  const auto value = NumberOf(record, measure.field);
  const auto interval = IntervalOf(record, measure.interval);
  if (!value) return {"", {"", "", ""}};
  if (!interval) return {Shown(*value, measure.format), {Exact(*value), "", ""}};
  return {fmt::format("{} ({})", Shown(*value, measure.format), Shown(*interval, measure.format)),
          {Exact(*value), Exact(interval->low), Exact(interval->high)}};
}

}  // namespace

std::optional<ReportTable> SharesTable(const TaskReport& task, const ReportRecords& records,
                                       const ReportRows& rows) {
  const ReportMeasure& measure = task.measures.front();
  std::vector<std::string> keeps;
  for (const EvalRecord* record : records) {
    if (record->full() || !NumberOf(*record, measure.field)) continue;
    if (std::find(keeps.begin(), keeps.end(), record->keep) == keeps.end()) {
      keeps.push_back(record->keep);
    }
  }
  if (keeps.size() < 2) return std::nullopt;

  ReportTable table = {
      fmt::format("{}_by_share", task.id),
      fmt::format("{}: {} by what is kept", task.title, measure.title),
      {{"text", {"text"}, true}, {"scorer", {"scorer"}, true}, {"budget", {"budget"}, true}},
      {}};
  for (const std::string& keep : keeps) {
    table.columns.push_back({keep, {keep, keep + "_low", keep + "_high"}});
  }
  const size_t first = table.columns.size() - keeps.size();
  const ReportCell nothing = {"", {"", "", ""}};
  for (const EvalRecord* record : records) {
    if (!NumberOf(*record, measure.field)) continue;
    std::vector<std::string> name = {rows.Panel(*record), rows.Scorer(*record),
                                     record->full() ? "" : rows.Variant(*record)};
    auto row = std::find_if(table.rows.begin(), table.rows.end(), [&](const auto& cells) {
      return std::equal(
          name.begin(), name.end(), cells.begin(),
          [](const auto& text, const ReportCell& cell) { return text == cell.shown; });
    });
    if (row == table.rows.end()) {
      std::vector<ReportCell> cells(table.columns.size(), nothing);
      for (size_t i = 0; i < name.size(); ++i) cells[i] = {name[i], {name[i]}};
      row = table.rows.insert(table.rows.end(), std::move(cells));
    }
    if (record->full()) {
      std::fill(row->begin() + static_cast<std::ptrdiff_t>(first), row->end(),
                Glance(*record, measure));
      continue;
    }
    const auto keep = std::find(keeps.begin(), keeps.end(), record->keep) - keeps.begin();
    (*row)[first + static_cast<size_t>(keep)] = Glance(*record, measure);
  }
  return table;
}

}  // namespace pith
