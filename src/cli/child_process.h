// This program, run again with other arguments.
#pragma once

#include <string>
#include <vector>

namespace pith::cli {

struct ChildResult {
  int exit_code = 0;
  std::string output;  // what it wrote to standard output; standard error is shared
};

// Runs pith with `arguments` and waits. Ctrl-C, or the death of this process, ends the child too.
// Throws Error(kIo) if it cannot be started or is killed.
ChildResult RunPith(const std::vector<std::string>& arguments);

}  // namespace pith::cli
