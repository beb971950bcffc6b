// A report as one page that needs nothing beside it.
#pragma once

#include <string>
#include <string_view>

#include "eval/report.h"

namespace pith {

// HTML with its style, its tables, and its plots as data that Vega-Lite, which is inside, draws.
// Nothing is loaded from anywhere. What a record says cannot become markup or script.
std::string ToPage(const Report& report);

// Files of this folder, and Vega-Lite; CMake makes them part of the program.
struct ReportAssets {
  std::string_view page;      // report_page.html
  std::string_view style;     // report_page.css
  std::string_view script;    // report_page.js
  std::string_view licences;  // vega_licences.txt
  std::string_view vega;      // Vega, Vega-Lite and Vega-Embed
};
extern const ReportAssets kReportAssets;

}  // namespace pith
