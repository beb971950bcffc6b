#include "eval/report_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <tuple>

namespace pith {
namespace {

size_t IndexOf(std::vector<std::string>& names, const std::string& name) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found != names.end()) return static_cast<size_t>(found - names.begin());
  names.push_back(name);
  return names.size() - 1;
}

std::string Setting(const std::map<std::string, std::string>& settings, const std::string& name) {
  const auto found = settings.find(name);
  return found == settings.end() ? "" : found->second;
}

std::string Tokens(int64_t count) {
  std::string digits = fmt::format("{}", count);
  for (size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, 1, ',');
  return digits;
}

// "key_codec", "f16" -> "key codec f16"; "chunkwise", "yes" -> "chunkwise".
std::string Words(std::string name, const std::string& value) {
  std::replace(name.begin(), name.end(), '_', ' ');
  if (value == "yes" || value.empty()) return name;
  return value == "no" ? "not " + name : name + " " + value;
}

ReportCell TextCell(const std::string& text) { return {text, {text}}; }

}  // namespace

ReportRows::ReportRows(std::vector<EvalRecord> records) : records_(std::move(records)) {
  std::vector<std::string> models;
  std::vector<std::string> subtasks = {"mean"};
  std::map<std::string, std::set<std::string>> plan_values;
  // Between tasks of different kinds, settings differ by nature.
  std::map<std::pair<std::string, std::string>, std::set<std::string>> task_values;
  for (const EvalRecord& record : records_) {
    IndexOf(models, record.model);
    IndexOf(subtasks, record.subtask);
    for (const auto& [name, value] : record.plan_settings) {
      if (name != "calibration") plan_values[name].insert(value);
    }
    for (const auto& [name, value] : record.task_settings) {
      task_values[{record.task, name}].insert(value);
    }
  }
  several_models_ = models.size() > 1;
  for (const auto& [name, values] : plan_values) {
    if (values.size() > 1) differing_[name] = false;
  }
  for (const auto& [task_and_name, values] : task_values) {
    if (values.size() > 1) differing_[task_and_name.second] = true;
  }
  for (const EvalRecord& record : records_) {
    if (record.full()) continue;
    IndexOf(scorers_, Scorer(record));
    const std::string variant = Variant(record);
    if (!variant.empty()) IndexOf(variants_, variant);
  }
  const auto place = [&](const EvalRecord& record) {
    const size_t scorer = record.full() ? 0 : 1 + IndexOf(scorers_, Scorer(record));
    const std::string variant = Variant(record);
    const size_t variant_place = variant.empty() ? 0 : 1 + IndexOf(variants_, variant);
    const auto kept = record.numbers.find("kept_fraction");
    return std::tuple(IndexOf(models, record.model), record.length.value_or(0), Panel(record),
                      scorer, variant_place, kept == record.numbers.end() ? 0 : -kept->second,
                      IndexOf(subtasks, record.subtask));
  };
  std::stable_sort(records_.begin(), records_.end(),
                   [&](const auto& a, const auto& b) { return place(a) < place(b); });
}

std::string ReportRows::Scorer(const EvalRecord& record) const {
  if (record.full()) return "full cache";
  const std::string file = Setting(record.plan_settings, "calibration");
  return file.empty() ? record.scorer
                      : record.scorer + "@" + std::filesystem::path(file).filename().string();
}

std::string ReportRows::Variant(const EvalRecord& record) const {
  std::string text = record.budget;
  for (const auto& [name, of_task] : differing_) {
    const std::string value = Setting(record.plan_settings, name);
    if (of_task || value.empty() || value == "no") continue;
    text += (text.empty() ? "" : ", ") + Words(name, value);
  }
  return text;
}

std::string ReportRows::Plan(const EvalRecord& record) const {
  if (record.full()) return Scorer(record);
  std::string text = Scorer(record);
  const std::string variant = Variant(record);
  if (!variant.empty()) text += ", " + variant;
  return record.keep.empty() ? text : text + ", keep " + record.keep;
}

std::string ReportRows::Panel(const EvalRecord& record, bool with_length) const {
  std::vector<std::string> parts;
  if (several_models_ && !record.model.empty()) parts.push_back(record.model);
  if (with_length && record.length) parts.push_back(Tokens(*record.length) + " tokens");
  for (const auto& [name, of_task] : differing_) {
    const std::string value = Setting(record.task_settings, name);
    if (of_task && !value.empty()) parts.push_back(Words(name, value));
  }
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : ", ") + part;
  return text;
}

std::vector<ReportColumn> ReportRows::Columns(bool subtasks, const std::string& tried) const {
  std::vector<ReportColumn> columns;
  const auto text = [&](const std::string& title, const std::string& name) {
    columns.push_back({title, {name}, true});
  };
  if (several_models_) text("model", "model");
  columns.push_back({"length", {"length"}});
  for (const auto& [name, of_task] : differing_) {
    if (of_task) text(Words(name, ""), name);
  }
  text(tried, tried);
  columns.push_back({"keep", {"keep"}});
  text("budget", "budget");
  for (const auto& [name, of_task] : differing_) {
    if (!of_task) columns.push_back({Words(name, ""), {name}});
  }
  if (subtasks) text("subtask", "subtask");
  return columns;
}

std::vector<ReportCell> ReportRows::Cells(const EvalRecord& record, bool subtasks) const {
  std::vector<ReportCell> cells;
  if (several_models_) cells.push_back(TextCell(record.model));
  cells.push_back(record.length
                      ? ReportCell{Tokens(*record.length), {fmt::format("{}", *record.length)}}
                      : TextCell(""));
  for (const auto& [name, of_task] : differing_) {
    if (of_task) cells.push_back(TextCell(Setting(record.task_settings, name)));
  }
  cells.push_back(TextCell(Scorer(record)));
  cells.push_back(TextCell(record.full() ? "" : record.keep));
  cells.push_back(TextCell(record.full() ? "" : record.budget));
  for (const auto& [name, of_task] : differing_) {
    if (!of_task) cells.push_back(TextCell(Setting(record.plan_settings, name)));
  }
  if (subtasks) cells.push_back(TextCell(record.subtask));
  return cells;
}

}  // namespace pith
