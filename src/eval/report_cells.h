// Numbers of records as cells of tables.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "eval/report.h"
#include "eval/report_tasks.h"

namespace pith {

using ReportRecords = std::vector<const EvalRecord*>;

// Nothing where the record has no such field, or `field` is null.
std::optional<double> NumberOf(const EvalRecord& record, const char* field);
std::optional<Interval> IntervalOf(const EvalRecord& record, const char* field);

std::string Shown(double value, ReportFormat format);
std::string Shown(const Interval& interval, ReportFormat format);
std::string Exact(double value);

ReportCell CellOf(std::optional<double> value, ReportFormat format);
ReportCell CellOf(const std::optional<Interval>& interval, ReportFormat format);
ReportColumn IntervalColumn(const std::string& field);

}  // namespace pith
