#include "cli/progress_bar.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "cli/interrupt.h"
#include "cli/report.h"

namespace pith::cli {
namespace {

constexpr int kMaxBarWidth = 30;

int TerminalColumns() {
  winsize size = {};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

ProgressBar::ProgressBar(std::string label, std::string unit)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      on_terminal_(isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()) {}

ProgressBar::~ProgressBar() { Clear(); }

void ProgressBar::Show(int64_t done, int64_t total) {
  if (!on_terminal_ || total <= 0) return;
  done = std::clamp<int64_t>(done, 0, total);
  const double spent =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  std::string line = fmt::format(" {}/{} {}", WithCommas(done), WithCommas(total), unit_);
  // Attention makes later tokens slower, so the time left is a little more than the mean says.
  if (done > 0) {
    line += fmt::format(", {} left", FormatDuration(spent / static_cast<double>(done) *
                                                    static_cast<double>(total - done)));
  }
  const int room = TerminalColumns() - static_cast<int>(label_.size() + line.size()) - 5;
  const int width = std::clamp(room, 0, kMaxBarWidth);
  const int filled = static_cast<int>(done * width / total);
  std::string bar =
      width < 5 ? std::string()
                : fmt::format("[{}{}]", std::string(filled, '#'), std::string(width - filled, '.'));
  shown_ = true;
  SetProgressShown(true);
  fmt::print(stderr, "\r\033[K{} {}{}", label_, bar, line);
  std::fflush(stderr);
}

void ProgressBar::Clear() {
  if (!shown_) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
  shown_ = false;
  SetProgressShown(false);
}

}  // namespace pith::cli
