// pith eval: what a compressed cache still knows.
#include <fmt/format.h>

#include <string_view>

#include "cli/command_line.h"
#include "cli/eval_tasks.h"
#include "cli/report.h"
#include "cli/verbs.h"

namespace pith::cli {

int Eval(const Verb& verb, std::span<char* const> arguments) {
  const std::string_view name = arguments.empty() ? std::string_view() : arguments.front();
  std::string list;
  std::string names;
  for (const EvalTask& task : kEvalTasks) {
    if (name == task.name) return task.run(task, arguments.subspan(1));
    list += fmt::format("  {:<10}  {}\n", task.name, task.summary);
    names += fmt::format("{}{}", names.empty() ? "" : ", ", task.name);
  }
  if (name == "--help" || name == "-h") {
    Print(fmt::format(
        "pith {0}: {1}\n\nUsage: pith {0} TASK [OPTIONS]\n\n{2}\n"
        "  pith {0} TASK --help    says what a task takes: --model (or $PITH_MODEL), --json, ...\n",
        verb.name, verb.summary, list));
    return kDone;
  }
  throw UsageError(
      fmt::format("there is no task '{}', only {} (see pith {} --help)", name, names, verb.name));
}

}  // namespace pith::cli
