#include "eval/report_text.h"

#include <algorithm>
#include <string_view>

namespace pith {
namespace {

std::string Escaped(std::string_view text) {
  constexpr std::string_view kMarkup = "\\|<&`[*";
  std::string escaped;
  for (char c : text) {
    if (kMarkup.find(c) != std::string_view::npos) escaped += '\\';
    escaped += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
  }
  return escaped;
}

size_t Width(std::string_view utf8) {
  return static_cast<size_t>(std::count_if(utf8.begin(), utf8.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;  // the first byte of a character
  }));
}

std::string Padded(const std::string& text, size_t width, bool left) {
  const std::string blanks(width - std::min(width, Width(text)), ' ');
  return left ? text + blanks : blanks + text;
}

std::string Rows(const ReportTable& table) {
  const size_t n_columns = table.columns.size();
  std::vector<std::vector<std::string>> rows = {{}};
  for (const ReportColumn& column : table.columns) rows.front().push_back(Escaped(column.title));
  for (const auto& cells : table.rows) {
    auto& row = rows.emplace_back();
    for (const ReportCell& cell : cells) row.push_back(Escaped(cell.shown));
  }
  std::vector<size_t> widths(n_columns, 3);  // Markdown wants three dashes
  for (const auto& row : rows) {
    for (size_t i = 0; i < n_columns; ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  std::string text;
  for (size_t i = 0; i < rows.size(); ++i) {
    for (size_t j = 0; j < n_columns; ++j) {
      text += "| " + Padded(rows[i][j], widths[j], table.columns[j].text) + " ";
    }
    text += "|\n";
    if (i > 0) continue;
    for (size_t j = 0; j < n_columns; ++j) {
      text += "| " + std::string(widths[j] - 1, '-') + (table.columns[j].text ? "- " : ": ");
    }
    text += "|\n";
  }
  return text;
}

std::string Quoted(const std::string& field) {
  if (field.find_first_of("\",\r\n") == std::string::npos) return field;
  std::string quoted = "\"";
  for (char c : field) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

}  // namespace

std::string ToMarkdown(const Report& report) {
  std::string text = "# What a compressed cache costs\n\n";
  for (const auto& [name, value] : report.facts) text += "- " + name + ": " + Escaped(value) + "\n";
  for (const std::string& note : report.notes) text += "\n" + Escaped(note) + "\n";
  for (const ReportSection& section : report.sections) {
    text += "\n## " + section.title + "\n\n" + section.note + "\n";
    for (const ReportTable& table : section.tables) {
      text += "\n";
      if (table.title != section.title) text += "### " + table.title + "\n\n";
      text += Rows(table);
    }
  }
  return text;
}

std::string ToCsv(const ReportTable& table) {
  std::vector<std::vector<std::string>> rows(1 + table.rows.size());
  for (const ReportColumn& column : table.columns) {
    rows.front().insert(rows.front().end(), column.names.begin(), column.names.end());
  }
  for (size_t i = 0; i < table.rows.size(); ++i) {
    for (const ReportCell& cell : table.rows[i]) {
      rows[i + 1].insert(rows[i + 1].end(), cell.exact.begin(), cell.exact.end());
    }
  }
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) text += (i == 0 ? "" : ",") + Quoted(row[i]);
    text += '\n';
  }
  return text;
}

}  // namespace pith
