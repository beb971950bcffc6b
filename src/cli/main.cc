// pith: language models with a really small KV cache.
#include <fmt/format.h>

#include <cstdio>
#include <new>
#include <string>
#include <string_view>

#include "cli/command_line.h"
#include "cli/interrupt.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "pith/error.h"

namespace pith::cli {
namespace {

std::string Help() {
  std::string help =
      "pith: language models with a really small KV cache\n\nUsage: pith VERB [OPTIONS]\n\n";
  for (const Verb& verb : kVerbs) help += fmt::format("  {:<12}{}\n", verb.name, verb.summary);
  help +=
      "\n  pith VERB --help    says what a verb takes\n"
      "  pith --version      prints the version\n\n"
      "The model is -m FILE.gguf, or $PITH_MODEL, or in a checkout of pith its default model.\n"
      "Exit codes: 0 done, 1 failed, 2 wrong use, 130 after Ctrl-C before a result.\n";
  return help;
}

int Dispatch(std::span<char* const> arguments) {
  if (arguments.empty()) {
    std::fputs(Help().c_str(), stderr);
    return kWrongUse;
  }
  const std::string_view name = arguments.front();
  if (name == "--help" || name == "-h") {
    Print(Help());
    return kDone;
  }
  if (name == "--version") {
    Print("pith " PITH_VERSION "\n");
    return kDone;
  }
  for (const Verb& verb : kVerbs) {
    if (name == verb.name) return verb.run(verb, arguments.subspan(1));
  }
  throw UsageError(fmt::format("there is no verb '{}' (see pith --help)", name));
}

int Complain(std::string_view message, int exit_code) {
  fmt::print(stderr, "pith: {}\n", message);
  return exit_code;
}

}  // namespace
}  // namespace pith::cli

int main(int argc, char** argv) {
  using namespace pith::cli;
  InstallSignalHandlers();
  try {
    return Dispatch(std::span<char* const>(argv, static_cast<size_t>(argc)).subspan(argc > 0));
  } catch (const UsageError& error) {
    return Complain(error.what(), kWrongUse);
  } catch (const pith::Error& error) {
    if (error.code() == pith::ErrorCode::kCancelled) return kInterrupted;
    return Complain(error.what(), kFailed);
  } catch (const std::bad_alloc&) {
    return Complain("out of memory", kFailed);
  } catch (const std::exception& error) {
    return Complain(error.what(), kFailed);
  }
}
