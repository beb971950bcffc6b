// Tables and plots of what was measured, for people (report_text.h, report_page.h).
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "eval/report_records.h"

namespace pith {

struct ReportColumn {
  std::string title;
  std::vector<std::string> names;  // in CSV: one column, or the two ends of an interval
  bool text = false;               // to the left; numbers stand to the right
};

struct ReportCell {
  std::string shown;
  std::vector<std::string> exact;  // one per name of the column; "" where there is nothing
};

struct ReportTable {
  std::string id;  // [a-z_]+, once in a report
  std::string title;
  std::vector<ReportColumn> columns;
  std::vector<std::vector<ReportCell>> rows;
};

// A plot. `data` is what report_page.js draws:
//   kind "lines"  x, y and its format; points with low and high; the full cache of each panel
//   kind "bars"   y and its format; bars with low and high; the full cache of each panel
//   kind "heat"   x, y, value and its domain; cells
// A panel is a small plot of its own on the same axes.
struct ReportFigure {
  std::string id;  // [a-z_]+, once in a report
  std::string kind;
  std::string title;
  std::string caption;
  nlohmann::ordered_json data;
};

struct ReportSection {
  std::string id;  // [a-z_]+
  std::string title;
  std::string note;
  std::vector<ReportFigure> figures;
  std::vector<ReportTable> tables;
};

struct Report {
  std::vector<std::pair<std::string, std::string>> facts;  // model, version, CPU, ...
  std::vector<std::string> notes;                          // what a reader must know
  // What a scorer's colour and a budget's line stand for, in the order of the first record.
  std::vector<std::string> scorers;
  std::vector<std::string> variants;
  std::vector<ReportSection> sections;  // only those that hold something
};

// Of records with the same identity the last one counts; the report says so. Throws
// Error(kInvalidArgument) for no records.
Report MakeReport(std::vector<EvalRecord> records);

}  // namespace pith
