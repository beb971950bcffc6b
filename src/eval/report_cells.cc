#include "eval/report_cells.h"

#include <fmt/format.h>

namespace pith {

std::optional<double> NumberOf(const EvalRecord& record, const char* field) {
  if (field == nullptr) return std::nullopt;
  const auto found = record.numbers.find(field);
  if (found == record.numbers.end()) return std::nullopt;
  return found->second;
}

std::optional<Interval> IntervalOf(const EvalRecord& record, const char* field) {
  if (field == nullptr) return std::nullopt;
  const auto found = record.intervals.find(field);
  if (found == record.intervals.end()) return std::nullopt;
  return found->second;
}

std::string Shown(double value, ReportFormat format) {
  switch (format) {
    case ReportFormat::kPercent:
      return fmt::format("{:.1f}%", 100 * value);
    case ReportFormat::kFine:
      return fmt::format("{:.4f}", value);
    case ReportFormat::kPlain:
    case ReportFormat::kSeconds:
      return fmt::format("{:.2f}", value);
    case ReportFormat::kSigned:
      return fmt::format("{:+.4f}", value);
    case ReportFormat::kRho:
      return fmt::format("{:.3f}", value);
    case ReportFormat::kPoints:
      return fmt::format("{:.1f}", value);
    case ReportFormat::kCount:
      return fmt::format("{:.0f}", value);
    case ReportFormat::kMiB:
      return fmt::format("{:.2f}", value / (1 << 20));
  }
  return {};
}

std::string Shown(const Interval& interval, ReportFormat format) {
  return Shown(interval.low, format) + " to " + Shown(interval.high, format);
}

std::string Exact(double value) { return fmt::format("{}", value); }

ReportCell CellOf(std::optional<double> value, ReportFormat format) {
  if (!value) return {"", {""}};
  return {Shown(*value, format), {Exact(*value)}};
}

ReportCell CellOf(const std::optional<Interval>& interval, ReportFormat format) {
  if (!interval) return {"", {"", ""}};
  return {Shown(*interval, format), {Exact(interval->low), Exact(interval->high)}};
}

ReportColumn IntervalColumn(const std::string& field) {
  return {"95 % interval", {field + "_low", field + "_high"}};
}

}  // namespace pith
