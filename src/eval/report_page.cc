#include "eval/report_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace pith {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kOpenRows = 24;  // a longer table is folded

std::string Escaped(std::string_view text) {
  std::string escaped;
  for (char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

// JSON that may stand in a script element: in ASCII, and never the start of a tag.
std::string ScriptJson(const Json& json) {
  const std::string text = json.dump(-1, ' ', true, Json::error_handler_t::replace);
  std::string safe;
  for (char c : text) {
    if (c == '<' || c == '>' || c == '&') {
      safe += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      safe += c;
    }
  }
  return safe;
}

std::string Html(const ReportTable& table) {
  std::string html = fmt::format(
      "<details{}><summary>{}: {} {}</summary>\n<div class=\"table\"><table id=\"table_{}\">\n"
      "<thead><tr>",
      table.rows.size() <= kOpenRows ? " open" : "", Escaped(table.title), table.rows.size(),
      table.rows.size() == 1 ? "row" : "rows", table.id);
  const auto kind = [](const ReportColumn& column) { return column.text ? " class=\"text\"" : ""; };
  for (const ReportColumn& column : table.columns) {
    html += fmt::format("<th{}>{}</th>", kind(column), Escaped(column.title));
  }
  html += "</tr></thead>\n<tbody>\n";
  for (const auto& row : table.rows) {
    html += "<tr>";
    for (size_t i = 0; i < row.size(); ++i) {
      html += fmt::format("<td{}>{}</td>", kind(table.columns[i]), Escaped(row[i].shown));
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div></details>\n";
}

std::string Html(const ReportFigure& figure) {
  std::string html =
      fmt::format("<figure id=\"{}\">\n<figcaption>{}", figure.id, Escaped(figure.title));
  if (!figure.caption.empty()) html += fmt::format("<small>{}</small>", Escaped(figure.caption));
  return html +
         fmt::format("</figcaption>\n<div class=\"plot\" data-figure=\"{}\"></div>\n</figure>\n",
                     figure.id);
}

std::string Html(const ReportSection& section) {
  std::string html =
      fmt::format("<section id=\"section_{}\">\n<h2>{}</h2>\n<p class=\"note\">{}</p>\n",
                  section.id, Escaped(section.title), Escaped(section.note));
  for (const ReportFigure& figure : section.figures) html += Html(figure);
  for (const ReportTable& table : section.tables) html += Html(table);
  return html + "</section>\n";
}

// Whether lines can be drawn against bytes as well.
bool TellsBytes(const Report& report) {
  for (const ReportSection& section : report.sections) {
    for (const ReportFigure& figure : section.figures) {
      if (figure.kind != "lines") continue;
      for (const Json& point : figure.data["points"]) {
        if (point.contains("mib")) return true;
      }
    }
  }
  return false;
}

std::string Notes(const Report& report) {
  std::string html;
  for (const std::string& note : report.notes) {
    html += fmt::format("<p class=\"note\">{}</p>\n", Escaped(note));
  }
  return html;
}

std::string Links(const Report& report) {
  std::string html;
  for (const ReportSection& section : report.sections) {
    html += fmt::format("<a href=\"#section_{}\">{}</a>\n", section.id, Escaped(section.title));
  }
  return html;
}

// What lines are drawn against.
std::string Choice(const Report& report) {
  if (!TellsBytes(report)) return {};
  return "<fieldset><legend>quality against</legend>"
         "<label><input type=\"radio\" name=\"against\" value=\"share\" checked> share kept</label>"
         "<label><input type=\"radio\" name=\"against\" value=\"mib\"> bytes kept</label>"
         "</fieldset>";
}

Json Data(const Report& report) {
  Json figures = Json::array();
  for (const ReportSection& section : report.sections) {
    for (const ReportFigure& figure : section.figures) {
      figures.push_back({{"id", figure.id},
                         {"kind", figure.kind},
                         {"title", figure.title},
                         {"data", figure.data}});
    }
  }
  return {{"scorers", report.scorers}, {"variants", report.variants}, {"figures", figures}};
}

// Every @NAME@ of the page becomes its value; what the values hold is not looked at again.
std::string Filled(std::string_view page, const std::map<std::string_view, std::string>& values) {
  std::string filled;
  while (!page.empty()) {
    const size_t begin = page.find('@');
    const size_t end =
        begin == std::string_view::npos ? std::string_view::npos : page.find('@', begin + 1);
    if (end == std::string_view::npos) break;
    const auto value = values.find(page.substr(begin + 1, end - begin - 1));
    filled += page.substr(0, begin);
    filled +=
        value == values.end() ? std::string(page.substr(begin, end + 1 - begin)) : value->second;
    page.remove_prefix(end + 1);
  }
  return filled + std::string(page);
}

}  // namespace

std::string ToPage(const Report& report) {
  std::string facts;
  for (const auto& [name, value] : report.facts) {
    facts += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>\n", Escaped(name), Escaped(value));
  }
  std::string sections;
  for (const ReportSection& section : report.sections) sections += Html(section);
  return Filled(kReportAssets.page, {{"TITLE", "What a compressed cache costs"},
                                     {"STYLE", std::string(kReportAssets.style)},
                                     {"FACTS", facts},
                                     {"NOTES", Notes(report)},
                                     {"LINKS", Links(report)},
                                     {"CHOICE", Choice(report)},
                                     {"SECTIONS", sections},
                                     {"LICENCES", Escaped(kReportAssets.licences)},
                                     {"DATA", ScriptJson(Data(report))},
                                     {"VEGA", std::string(kReportAssets.vega)},
                                     {"SCRIPT", std::string(kReportAssets.script)}});
}

}  // namespace pith
