// Seconds, for TimeStats.
#pragma once

#include <chrono>

namespace pith {

inline double Now() {
  using std::chrono::steady_clock;
  return std::chrono::duration<double>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace pith
