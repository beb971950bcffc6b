// The system sees what the cache says of its memory. Nothing here may use OpenMP before it forks:
// its threads do not exist in the child.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "memory_probe.h"
#include "pith/session.h"
#include "tools/random_gguf.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

// Tokens that mean nothing, as many as a test of memory needs.
std::vector<Token> Noise(size_t n) {
  std::vector<Token> tokens;
  for (size_t i = 0; i < n; ++i) tokens.push_back(static_cast<Token>(i * 7919 % 200));
  return tokens;
}

// In a child process each, so that one's memory does not hide the other's.
struct Measured {
  uint64_t peak_resident;
  CacheStats stats;
  uint64_t largest_seen;
};

Measured MeasureReading(const std::filesystem::path& file, const std::vector<Token>& tokens,
                        const Plan& plan, int n_batch) {
  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) throw std::runtime_error("no pipe");
  const pid_t child = fork();
  if (child == 0) {
    uint64_t numbers[5] = {};
    try {
      const Model model = Model::Load(file);
      Session session(model, plan, {.n_batch = n_batch, .n_threads = 1});
      ReadOptions options;
      options.progress = [&](int64_t, int64_t) {
        numbers[4] = std::max(numbers[4], session.stats().kv_bytes);
        return true;
      };
      session.Read(tokens, options);
      const CacheStats stats = session.stats();
      numbers[0] = SystemMemory("VmHWM");
      numbers[1] = stats.kv_bytes;
      numbers[2] = stats.kv_bytes_peak;
      numbers[3] = static_cast<uint64_t>(stats.entries);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "%s\n", e.what());
    }
    const bool written = write(pipe_ends[1], numbers, sizeof(numbers)) == sizeof(numbers);
    _exit(written ? 0 : 1);
  }
  close(pipe_ends[1]);
  uint64_t numbers[5] = {};
  const bool complete = read(pipe_ends[0], numbers, sizeof(numbers)) == sizeof(numbers);
  close(pipe_ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(complete && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  Measured m{};
  m.peak_resident = numbers[0];
  m.stats.kv_bytes = numbers[1];
  m.stats.kv_bytes_peak = numbers[2];
  m.stats.entries = static_cast<int64_t>(numbers[3]);
  m.largest_seen = numbers[4];
  return m;
}

TEST(Compression, MemoryIsReal) {
  // Nearly all of its memory is the cache's: 32 KiB a token.
  constexpr int kTokens = 3000, kBatch = 256;
  constexpr uint64_t kEntryBytes = 128 * 2 * 2, kHeads = 8 * 8;
  testing::RandomGguf gguf;
  gguf.n_layers = 8;
  gguf.n_heads = gguf.n_kv_heads = 8;
  gguf.head_dim = 128;
  gguf.n_ctx = 4096;
  const testing::TempFolder folder;
  testing::WriteRandomGguf(gguf, folder / "model.gguf");
  const auto tokens = Noise(kTokens);
  Plan kept_plan;
  kept_plan.keep = Keep::Parse("256");
  kept_plan.scorer = "knorm";
  const Measured full = MeasureReading(folder / "model.gguf", tokens, {}, kBatch);
  const Measured kept = MeasureReading(folder / "model.gguf", tokens, kept_plan, kBatch);
  const uint64_t bound = (256 + 128 + kBatch) * kEntryBytes * kHeads;
  std::printf("full: KV peak %.1f MB, process peak %.1f MB; 256 kept: %.1f MB, %.1f MB\n",
              full.stats.kv_bytes_peak / 1e6, full.peak_resident / 1e6,
              kept.stats.kv_bytes_peak / 1e6, kept.peak_resident / 1e6);
  EXPECT_EQ(full.stats.entries, int64_t{kTokens} * kHeads);
  EXPECT_EQ(kept.stats.entries, int64_t{256} * kHeads);
  EXPECT_GE(full.stats.kv_bytes, kTokens * kEntryBytes * kHeads);
  EXPECT_LE(kept.stats.kv_bytes_peak, bound);
  EXPECT_LE(kept.largest_seen, bound);
  // The process shrinks by what the cache says it shrank by.
  const double saved_by_cache =
      static_cast<double>(full.stats.kv_bytes_peak - kept.stats.kv_bytes_peak);
  const double saved =
      static_cast<double>(full.peak_resident) - static_cast<double>(kept.peak_resident);
  EXPECT_NEAR(saved, saved_by_cache, 0.1 * saved_by_cache);
}

}  // namespace
}  // namespace pith
