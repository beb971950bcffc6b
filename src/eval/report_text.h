// A report's tables as text.
#pragma once

#include <string>

#include "eval/report.h"

namespace pith {

// Everything but the plots. What a record says cannot become markup.
std::string ToMarkdown(const Report& report);

// One table with exact numbers, a header of names, an interval in two columns (RFC 4180, but with
// plain line ends).
std::string ToCsv(const ReportTable& table);

}  // namespace pith
