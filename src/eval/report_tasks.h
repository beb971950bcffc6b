// What a report shows of every task's records.
#pragma once

#include <vector>

namespace pith {

enum class ReportFormat { kPercent, kFine, kPlain, kSigned, kRho, kPoints, kCount, kMiB, kSeconds };

// A number of a record, and the columns of a table that it fills.
struct ReportMeasure {
  const char* field;
  const char* interval;  // its field, or null
  const char* title;     // with the unit
  ReportFormat format;
};

// A plot of quality against what is kept, or what else the records tell.
struct ReportCurve {
  const char* field;
  const char* interval;
  const char* title;
  const char* axis;       // with the unit
  bool relative = false;  // to the full cache, of which there is then nothing to draw
  double most = 0;        // the upper end of the axis; 0: what the records need
  bool percent = false;   // a share is drawn as percent
  bool log = false;
  const char* against = nullptr;       // a field of the records
  const char* against_axis = nullptr;  // its title
};

// A map of layers and KV heads, from the field per_head.
struct ReportHeads {
  const char* title = nullptr;  // null: there is none
  const char* value = nullptr;
  double least = 0;
  double most = 1;
};

// A section of the report.
struct TaskReport {
  const char* id;  // [a-z_]+
  const char* title;
  const char* note;
  std::vector<const char*> tasks;  // names in records
  std::vector<ReportMeasure> measures;
  std::vector<ReportCurve> curves;
  ReportHeads heads = {};
  const char* tried = "scorer";  // what a plan's name is the name of
};

// In the order of a report's sections.
const std::vector<TaskReport>& TaskReports();

}  // namespace pith
