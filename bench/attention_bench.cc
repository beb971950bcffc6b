// Attention alone: decode against the machine's read bandwidth, prefill against its arithmetic
// peak. Every layer has pages of its own, so that decode reads them from memory as a model does.
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "attention/attention.h"

namespace pith {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// What this thread computed, whatever else the machine was doing meanwhile.
double ThreadSeconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Threads that stay and meet at a spinning barrier before and after each task, as ggml's do.
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

// One layer's KV heads: pages in a shuffled order of one large allocation, random f16 contents.
class Layer {
 public:
  Layer(int head_dim, int n_kv_heads, int64_t n_entries, std::minstd_rand& random) {
    const size_t page_bytes = 2 * F16KeyBytes(head_dim);
    const int64_t n_pages = (n_entries + kPageEntries - 1) / kPageEntries;
    size_t space = n_pages * n_kv_heads * page_bytes + kPageAlignment;
    memory_ = std::make_unique<std::byte[]>(space);
    void* aligned = memory_.get();
    auto* base = static_cast<std::byte*>(
        std::align(kPageAlignment, n_pages * n_kv_heads * page_bytes, aligned, space));
    auto* values = reinterpret_cast<F16*>(base);
    for (size_t i = 0; i < n_pages * n_kv_heads * page_bytes / sizeof(F16); ++i) {
      // Sign, exponent 13 or 14 (sizes 1/4 to 1), mantissa.
      const auto bits = static_cast<uint32_t>(random());
      values[i] =
          static_cast<F16>((bits & 0x8000) | (13 + (bits >> 16 & 1)) << 10 | (bits & 0x3ff));
    }
    std::vector<std::byte*> pages;
    for (int64_t i = 0; i < n_pages * n_kv_heads; ++i) {
      pages.push_back(base + i * page_bytes);
    }
    std::shuffle(pages.begin(), pages.end(), random);
    pages_ = std::move(pages);
    for (int h = 0; h < n_kv_heads; ++h) views_.push_back({&pages_[h * n_pages], n_entries, 0});
  }

  std::vector<HeadView> views(int64_t n_chunk) const {
    std::vector<HeadView> views = views_;
    for (HeadView& view : views) view.n_chunk = n_chunk;
    return views;
  }

 private:
  std::unique_ptr<std::byte[]> memory_;
  std::vector<std::byte*> pages_;
  std::vector<HeadView> views_;
};

// Bytes a second that all threads together read from memory, the best of several passes.
double ReadBandwidth(Team& team, size_t bytes) {
  const size_t n = bytes / sizeof(uint64_t);
  std::vector<uint64_t> memory(n, 1);
  std::vector<double> seconds;
  std::atomic<uint64_t> sink{0};
  for (int pass = 0; pass < 5; ++pass) {
    const auto begin = Clock::now();
    team.Run([&](int thread) {
      const size_t first = n / 8 * thread / team.n_threads() * 8;
      const size_t last = n / 8 * (thread + 1) / team.n_threads() * 8;
      uint64_t sums[8] = {};
      for (size_t i = first; i < last; i += 8) {
        for (int j = 0; j < 8; ++j) sums[j] += memory[i + j];
      }
      for (const uint64_t sum : sums) sink += sum;
    });
    seconds.push_back(Seconds(begin));
  }
  if (sink == 0) std::abort();
  return bytes / *std::min_element(seconds.begin(), seconds.end());
}

struct Options {
  int head_dim = 64;
  int n_heads = 9;
  int n_kv_heads = 3;
  int n_layers = 30;
  int threads = 2;
  int repeats = 7;
  std::vector<int64_t> depths = {512, 2048, 8192};
  std::vector<int> chunks = {1, 512};
  std::string level;
  bool json = false;
};

nlohmann::json Measure(const Options& o, Team& team, double bandwidth, int64_t depth, int chunk) {
  std::minstd_rand random(1);
  const AttentionShape shape = {.head_dim = o.head_dim,
                                .n_heads = o.n_heads,
                                .n_kv_heads = o.n_kv_heads,
                                .scale = 1.0f / std::sqrt(static_cast<float>(o.head_dim))};
  std::vector<std::unique_ptr<Layer>> layers;
  for (int l = 0; l < o.n_layers; ++l) {
    layers.push_back(std::make_unique<Layer>(o.head_dim, o.n_kv_heads, depth + chunk, random));
  }
  const size_t n = size_t{1} * chunk * o.n_heads * o.head_dim;
  std::vector<float> q(n), out(n);
  for (float& x : q) x = static_cast<float>(random() % 1000) / 250.0f - 2.0f;
  AttentionPlan plan(shape, team.n_threads());
  plan.Prepare(chunk);

  std::vector<double> seconds;
  std::vector<double> core_seconds;
  std::vector<double> by_thread(team.n_threads());
  double hash = 0;
  for (int repeat = 0; repeat < o.repeats; ++repeat) {
    by_thread.assign(team.n_threads(), 0.0);
    const auto begin = Clock::now();
    for (const auto& layer : layers) {
      const std::vector<HeadView> views = layer->views(chunk);
      team.Run([&](int thread) {
        const double start = ThreadSeconds();
        plan.Run(q.data(), views, out.data(), thread, team.n_threads());
        by_thread[thread] += ThreadSeconds() - start;
      });
    }
    seconds.push_back(Seconds(begin));
    core_seconds.push_back(std::accumulate(by_thread.begin(), by_thread.end(), 0.0));
    for (const float x : out) hash += x;
  }
  const double s = Median(seconds);
  const double entries = static_cast<double>(depth) + (chunk + 1) / 2.0;  // seen by a query, mean
  const double flop = 4.0 * o.n_layers * o.n_heads * o.head_dim * chunk * entries;
  const double bytes = 4.0 * o.n_layers * o.n_kv_heads * o.head_dim * (depth + chunk);
  return {{"level", CurrentSimdLevel()},
          {"threads", team.n_threads()},
          {"depth", depth},
          {"chunk", chunk},
          {"ms", s * 1e3},
          {"min_ms", *std::min_element(seconds.begin(), seconds.end()) * 1e3},
          {"gflops", flop / s * 1e-9},
          {"gflops_core", flop / Median(core_seconds) * 1e-9},
          {"gbps", bytes / s * 1e-9},
          {"bandwidth_share", bytes / s / bandwidth},
          {"hash", hash}};
}

int Main(int argc, char** argv) {
  Options o;
  CLI::App app("Attention kernels, alone: decode (chunk 1) and prefill (larger chunks)");
  app.add_option("--head-dim", o.head_dim);
  app.add_option("--heads", o.n_heads);
  app.add_option("--kv-heads", o.n_kv_heads);
  app.add_option("--layers", o.n_layers, "layers, each with pages of its own");
  app.add_option("-t,--threads", o.threads);
  app.add_option("-r,--repeats", o.repeats);
  app.add_option("-d,--depths", o.depths, "entries before the chunk")->delimiter(',');
  app.add_option("-c,--chunks", o.chunks, "queries at once")->delimiter(',');
  app.add_option("--level", o.level, "SIMD level, best if not given");
  app.add_flag("--json", o.json);
  CLI11_PARSE(app, argc, argv);
  if (!ForceSimdLevel(o.level)) {
    std::fprintf(stderr, "This machine has no SIMD level %s.\n", o.level.c_str());
    return 1;
  }

  Team team(o.threads);
  const double bandwidth = ReadBandwidth(team, size_t{256} << 20);
  if (!o.json) {
    std::printf("%s, %d threads, read bandwidth %.1f GB/s, %d layers, %d/%d heads of %d\n",
                CurrentSimdLevel().c_str(), o.threads, bandwidth * 1e-9, o.n_layers, o.n_heads,
                o.n_kv_heads, o.head_dim);
    std::printf("%8s %6s %10s %10s %9s %9s %9s %9s\n", "depth", "chunk", "median ms", "best ms",
                "GFLOP/s", "per core", "GB/s", "of read");
  }
  nlohmann::json records = nlohmann::json::array();
  for (const int chunk : o.chunks) {
    for (const int64_t depth : o.depths) {
      nlohmann::json r = Measure(o, team, bandwidth, depth, chunk);
      r["read_gbps"] = bandwidth * 1e-9;
      if (!o.json) {
        std::printf("%8ld %6d %10.3f %10.3f %9.1f %9.1f %9.2f %8.0f%%\n", static_cast<long>(depth),
                    chunk, r["ms"].get<double>(), r["min_ms"].get<double>(),
                    r["gflops"].get<double>(), r["gflops_core"].get<double>(),
                    r["gbps"].get<double>(), 100 * r["bandwidth_share"].get<double>());
        std::fflush(stdout);
      }
      records.push_back(std::move(r));
    }
  }
  if (o.json) std::printf("%s\n", records.dump(2).c_str());
  return 0;
}

}  // namespace
}  // namespace pith

int main(int argc, char** argv) { return pith::Main(argc, argv); }
