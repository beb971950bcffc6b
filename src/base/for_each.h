// Independent pieces of work on several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace pith {

// Calls work(i) once for every i of 0 to n - 1, from up to `n_threads` threads, the caller's among
// them, each taking the next one that is left. What one of them throws is thrown again when all
// have stopped; pieces that had not begun by then are left.
template <typename Work>
void ForEachIndex(int n, int n_threads, const Work& work) {
  std::atomic<int> next = 0;
  std::exception_ptr error;
  std::mutex mutex;
  const auto run = [&] {
    try {
      for (int i; (i = next++) < n;) work(i);
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
      next = n;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 1; i < std::min(n, n_threads); ++i) threads.emplace_back(run);
  run();
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace pith
