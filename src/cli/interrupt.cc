#include "cli/interrupt.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>

#include "cli/verbs.h"

namespace pith::cli {
namespace {

// All that the handler touches is lock-free, which makes it safe to use from a signal.
std::atomic<Session*> g_session = nullptr;
std::atomic<int> g_requests = 0;
std::atomic<bool> g_in_scope = false;
std::atomic<bool> g_at_prompt = false;
std::atomic<bool> g_ignored = false;
std::atomic<bool> g_progress_shown = false;
std::atomic<pid_t> g_child = 0;
static_assert(std::atomic<Session*>::is_always_lock_free &&
              std::atomic<pid_t>::is_always_lock_free);

void OnInterrupt(int) {
  if (g_ignored) return;
  const int saved_errno = errno;
  if (g_in_scope && g_requests.fetch_add(1) == 0) {
    if (Session* session = g_session) session->Cancel();
    errno = saved_errno;
    return;
  }
  if (const pid_t child = g_child) kill(child, SIGKILL);
  if (g_progress_shown) {
    constexpr char kClearLine[] = "\r\033[K";
    [[maybe_unused]] const ssize_t written =
        write(STDERR_FILENO, kClearLine, sizeof(kClearLine) - 1);
  }
  if (g_at_prompt || g_in_scope) {
    [[maybe_unused]] const ssize_t written = write(STDOUT_FILENO, "\n", 1);
  }
  _exit(g_at_prompt ? kDone : kInterrupted);
}

}  // namespace

void InstallSignalHandlers() {
  struct sigaction action = {};
  action.sa_handler = OnInterrupt;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  signal(SIGPIPE, SIG_DFL);
}

InterruptScope::InterruptScope(Session* session) {
  g_requests = 0;
  g_session = session;
  g_in_scope = true;
}

InterruptScope::~InterruptScope() {
  g_in_scope = false;
  g_session = nullptr;
}

bool InterruptScope::requested() const { return g_requests > 0; }

UninterruptedScope::UninterruptedScope() { g_ignored = true; }
UninterruptedScope::~UninterruptedScope() { g_ignored = false; }

PromptScope::PromptScope() { g_at_prompt = true; }
PromptScope::~PromptScope() { g_at_prompt = false; }

ChildScope::ChildScope(pid_t child) { g_child = child; }
ChildScope::~ChildScope() { g_child = 0; }

void SetProgressShown(bool shown) { g_progress_shown = shown; }

}  // namespace pith::cli
