// pith eval report: what was measured, as a page with plots and as tables.
#include <fmt/format.h>

#include <filesystem>

#include "base/atomic_file.h"
#include "base/fail.h"
#include "cli/command_line.h"
#include "cli/eval_tasks.h"
#include "cli/output_file.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "eval/report.h"
#include "eval/report_page.h"
#include "eval/report_records.h"
#include "eval/report_text.h"

namespace pith::cli {
namespace {

namespace fs = std::filesystem;

void Write(const fs::path& file, const std::string& text) {
  WriteFileAtomically(file, std::as_bytes(std::span(text)));
}

void WriteTables(const fs::path& folder, const Report& report) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error)
    Fail(ErrorCode::kIo, "cannot make the folder {}: {}", folder.string(), error.message());
  for (const ReportSection& section : report.sections) {
    for (const ReportTable& table : section.tables)
      Write(folder / (table.id + ".csv"), ToCsv(table));
  }
}

}  // namespace

int EvalReport(const EvalTask& task, std::span<char* const> arguments) {
  std::vector<std::string> names;
  std::string page;
  std::string markdown;
  std::string csv;
  CommandLine line(fmt::format("eval {}", task.name), task.summary);
  line.Positionals("FILE", names, "what pith eval TASK --json printed, of any tasks and models");
  line.Option("--html", page, "FILE", "write a page with plots and tables that needs nothing else");
  line.Option("--markdown", markdown, "FILE", "write the tables as Markdown");
  line.Option("--csv", csv, "FOLDER", "write every table as a CSV file, with exact numbers");
  line.Footer(
      "Without --html, --markdown and --csv the tables are printed. Where the same plan was "
      "measured "
      "twice, the\nlast record counts.");
  if (!line.Parse(arguments)) return kDone;
  for (const std::string& file : {page, markdown}) {
    if (!file.empty()) CheckWritable(file);
  }
  const Report report = MakeReport(ReadRecords({names.begin(), names.end()}));
  if (!page.empty()) Write(page, ToPage(report));
  if (!markdown.empty()) Write(markdown, ToMarkdown(report));
  if (!csv.empty()) WriteTables(csv, report);
  if (page.empty() && markdown.empty() && csv.empty()) Print(ToMarkdown(report));
  return kDone;
}

}  // namespace pith::cli
