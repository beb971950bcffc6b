// A bar on standard error while something long goes on; nothing unless that is a terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace pith::cli {

class ProgressBar {
 public:
  // `label` as in "reading", `unit` as in "tokens".
  ProgressBar(std::string label, std::string unit);
  ~ProgressBar();  // takes the bar away
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void Show(int64_t done, int64_t total);
  void Clear();

 private:
  std::string label_;
  std::string unit_;
  bool on_terminal_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace pith::cli
