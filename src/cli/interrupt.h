// What Ctrl-C does. Unless a scope below says otherwise it ends the program at once with exit code
// 130: no verb has anything half-written then.
#pragma once

#include <sys/types.h>

#include "pith/session.h"

namespace pith::cli {

// Takes over SIGINT; also gives SIGPIPE its default action, so that `| head` ends pith quietly.
void InstallSignalHandlers();

// While it lives, the first Ctrl-C cancels the session (if any) and sets requested(); the second
// one ends the program.
class InterruptScope {
 public:
  explicit InterruptScope(Session* session = nullptr);
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

  bool requested() const;
};

// While it lives, Ctrl-C does nothing: a file is being written.
class UninterruptedScope {
 public:
  UninterruptedScope();
  ~UninterruptedScope();
  UninterruptedScope(const UninterruptedScope&) = delete;
  UninterruptedScope& operator=(const UninterruptedScope&) = delete;
};

// While it lives, Ctrl-C at a prompt ends the program as a good end: exit code 0.
class PromptScope {
 public:
  PromptScope();
  ~PromptScope();
  PromptScope(const PromptScope&) = delete;
  PromptScope& operator=(const PromptScope&) = delete;
};

// While it lives, Ctrl-C ends the child process too.
class ChildScope {
 public:
  explicit ChildScope(pid_t child);
  ~ChildScope();
  ChildScope(const ChildScope&) = delete;
  ChildScope& operator=(const ChildScope&) = delete;
};

// Whether Ctrl-C must move to a new line first because a progress bar stands on the current one.
void SetProgressShown(bool shown);

}  // namespace pith::cli
