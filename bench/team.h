// Threads that stay and meet at a spinning barrier before and after each task, as ggml's do.
#pragma once

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

namespace pith {

class Team {
 public:
  explicit Team(int n_threads) : n_threads_(n_threads) {
    for (int t = 1; t < n_threads; ++t) threads_.emplace_back([this, t] { Loop(t); });
  }
  ~Team() {
    task_ = nullptr;
    round_.fetch_add(1, std::memory_order_release);
    for (std::thread& thread : threads_) thread.join();
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // The caller is thread 0.
  void Run(const std::function<void(int thread)>& task) {
    task_ = &task;
    n_done_.store(0, std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
    task(0);
    while (n_done_.load(std::memory_order_acquire) < n_threads_ - 1) std::this_thread::yield();
  }

  int n_threads() const { return n_threads_; }

 private:
  void Loop(int thread) {
    for (int seen = 0;;) {
      while (round_.load(std::memory_order_acquire) == seen) std::this_thread::yield();
      ++seen;
      if (task_ == nullptr) return;
      (*task_)(thread);
      n_done_.fetch_add(1, std::memory_order_release);
    }
  }

  int n_threads_;
  std::vector<std::thread> threads_;
  const std::function<void(int)>* task_ = nullptr;
  std::atomic<int> round_{0};
  std::atomic<int> n_done_{0};
};

}  // namespace pith
