#include "cli/child_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "base/fail.h"
#include "cli/interrupt.h"

namespace pith::cli {
namespace {

constexpr char kSelf[] = "/proc/self/exe";

// Only async-signal-safe calls: between fork and exec nothing else is allowed.
[[noreturn]] void BecomePith(char* const* arguments, int output, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() == parent && dup2(output, STDOUT_FILENO) >= 0) execv(kSelf, arguments);
  _exit(127);
}

std::string ReadAll(int descriptor) {
  std::string bytes;
  char buffer[4096];
  for (;;) {
    const ssize_t count = read(descriptor, buffer, sizeof(buffer));
    if (count > 0) bytes.append(buffer, static_cast<size_t>(count));
    if (count == 0 || (count < 0 && errno != EINTR)) return bytes;
  }
}

}  // namespace

ChildResult RunPith(const std::vector<std::string>& arguments) {
  std::vector<char*> pointers = {const_cast<char*>("pith")};
  for (const std::string& argument : arguments) {
    pointers.push_back(const_cast<char*>(argument.c_str()));
  }
  pointers.push_back(nullptr);

  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    Fail(ErrorCode::kIo, "cannot make a pipe: {}", std::strerror(errno));
  }
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child == 0) BecomePith(pointers.data(), ends[1], parent);
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    Fail(ErrorCode::kIo, "cannot start a process: {}", std::strerror(errno));
  }

  const ChildScope interrupt(child);
  ChildResult result;
  result.output = ReadAll(ends[0]);
  close(ends[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) {
    Fail(ErrorCode::kIo, "the process that read the document was killed by signal {}",
         WTERMSIG(status));
  }
  result.exit_code = WEXITSTATUS(status);
  if (result.exit_code == 127) Fail(ErrorCode::kIo, "cannot run {} again", kSelf);
  return result;
}

}  // namespace pith::cli
