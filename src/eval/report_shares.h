// A task's first figure at a glance: a row for every scorer and budget, a column for every share.
#pragma once

#include <optional>

#include "eval/report_cells.h"
#include "eval/report_rows.h"

namespace pith {

// Nothing unless several shares were measured. The full cache stands the same in all columns.
std::optional<ReportTable> SharesTable(const TaskReport& task, const ReportRecords& records,
                                       const ReportRows& rows);

}  // namespace pith
