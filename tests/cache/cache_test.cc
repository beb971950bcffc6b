#include "cache/cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "memory_probe.h"
#include "pith/error.h"

namespace pith {
namespace {

constexpr int kDim = 64;

Cache MakeCache(int n_layers, int n_kv_heads, uint64_t limit = 0) {
  return Cache({n_layers, n_kv_heads, kDim}, MakeTiers(Plan().StoredTiers(), kDim), limit);
}

// Rows that tell layer, head and position, exact in half precision.
float KeyElement(int layer, int head, int position, int d) {
  return static_cast<float>((position * 7 + layer * 3 + head + d) % 2048);
}
float ValueElement(int layer, int head, int position, int d) {
  return -KeyElement(layer, head, position, d);
}

void AppendTo(Cache& cache, int first_position, int n) {
  cache.BeginChunk(n, first_position);
  std::vector<float> k(size_t{1} * n * kDim), v(k.size()), worth(n);
  for (int layer = 0; layer < cache.shape().n_layers; ++layer) {
    for (int head = 0; head < cache.shape().n_kv_heads; ++head) {
      for (int i = 0; i < n; ++i) {
        worth[i] = static_cast<float>(first_position + i) * 0.5f;
        for (int d = 0; d < kDim; ++d) {
          k[i * kDim + d] = KeyElement(layer, head, first_position + i, d);
          v[i * kDim + d] = ValueElement(layer, head, first_position + i, d);
        }
      }
      const int half = n / 2;  // as two threads would
      const size_t dim = kDim;
      cache.Write(layer, head, half, {k.data() + half * kDim, size_t(n - half), dim, dim},
                  {v.data() + half * kDim, size_t(n - half), dim, dim},
                  std::span(worth).subspan(half));
      cache.Write(layer, head, 0, {k.data(), size_t(half), dim, dim},
                  {v.data(), size_t(half), dim, dim}, std::span(worth).first(half));
    }
  }
  cache.EndChunk();
}

void ExpectIntact(const Cache& cache, int layer, int head) {
  const HeadEntries entries = cache.Entries(layer, head);
  std::vector<float> k(kDim), v(kDim);
  for (size_t i = 0; i < entries.positions.size(); ++i) {
    cache.Read(layer, head, static_cast<int64_t>(i), k.data(), v.data());
    const int position = entries.positions[i];
    ASSERT_EQ(entries.worth[i], static_cast<float>(position) * 0.5f);
    for (int d = 0; d < kDim; ++d) {
      ASSERT_EQ(k[d], KeyElement(layer, head, position, d));
      ASSERT_EQ(v[d], ValueElement(layer, head, position, d));
    }
  }
}

TEST(Cache, RaggedHeadsKeepTheirOwnEntriesWhateverIsEvicted) {
  Cache cache = MakeCache(2, 3);
  std::mt19937 random(3);
  std::map<std::pair<int, int>, std::vector<int32_t>> expected;
  int position = 0;
  for (int round = 0; round < 60; ++round) {
    const int n = 1 + static_cast<int>(random() % 150);
    AppendTo(cache, position, n);
    for (int layer = 0; layer < 2; ++layer) {
      for (int head = 0; head < 3; ++head) {
        auto& kept = expected[{layer, head}];
        for (int i = 0; i < n; ++i) kept.push_back(position + i);
        // Each head at its own rate; sometimes everything goes.
        const uint32_t rate = round % 20 == 19 ? 100 : 20 + 15 * static_cast<uint32_t>(head);
        std::vector<int32_t> gone;
        const auto positions = cache.Entries(layer, head).positions;
        for (int32_t i = static_cast<int32_t>(positions.size()) - 1; i >= 0; --i) {
          if (random() % 100 < rate) {
            gone.push_back(i);
            std::erase(kept, positions[i]);
          }
        }
        cache.Evict(layer, head, gone);
        const auto now = cache.Entries(layer, head).positions;
        std::vector<int32_t> sorted(now.begin(), now.end());
        std::sort(sorted.begin(), sorted.end());
        ASSERT_EQ(sorted, kept);
        ExpectIntact(cache, layer, head);
      }
    }
    position += n;
    if (round % 7 == 0) cache.Trim();
  }
}

TEST(Cache, ViewsShowPastAndChunk) {
  Cache cache = MakeCache(1, 2);
  AppendTo(cache, 0, 100);
  cache.Evict(0, 1, std::vector<int32_t>{99, 50, 3});
  cache.BeginChunk(7, 100);
  const auto views = cache.Views(0);
  ASSERT_EQ(views.size(), 2u);
  EXPECT_EQ(views[0].n_entries(), 107);
  EXPECT_EQ(views[1].n_entries(), 104);
  EXPECT_EQ(views[1].n_chunk, 7);
  EXPECT_EQ(cache.ChunkPositions(0, 1)[6], 106);
  cache.AbandonChunk();
  EXPECT_EQ(cache.n_entries(0, 0), 100);
  EXPECT_EQ(cache.n_entries(0, 1), 97);
  ExpectIntact(cache, 0, 1);
}

TEST(Cache, ReportedBytesAreAllocatedBytes) {
  Cache cache = MakeCache(8, 8);
  const uint64_t before = SystemMemory("VmRSS");
  AppendTo(cache, 0, 4096);
  const uint64_t full = cache.allocated_bytes();
  const uint64_t payload = uint64_t{64} * 4096 * kDim * 4;
  EXPECT_GE(full, payload);
  EXPECT_LE(full, payload * 105 / 100);
  if (kSystemMemoryTells) {
    EXPECT_NEAR(static_cast<double>(SystemMemory("VmRSS") - before), static_cast<double>(full),
                static_cast<double>(full) * 0.1);
  }
  std::vector<int32_t> gone;
  for (int32_t i = 4095; i >= 0; --i) {
    if (i % 4 != 0) gone.push_back(i);
  }
  for (int layer = 0; layer < 8; ++layer) {
    for (int head = 0; head < 8; ++head) cache.Evict(layer, head, gone);
  }
  cache.Trim();
  EXPECT_LE(cache.allocated_bytes(), full * 26 / 100);
  if (kSystemMemoryTells) {
    EXPECT_LE(SystemMemory("VmRSS") - before, full * 35 / 100);
  }
  EXPECT_EQ(cache.total_entries(), 64 * 1024);
  EXPECT_EQ(cache.peak_bytes(), full);
}

TEST(Cache, TheLimitHoldsAndRefusalChangesNothing) {
  Cache cache = MakeCache(2, 2, 4 * 8 * (size_t{kPageEntries} * kDim * 4 + 512));
  AppendTo(cache, 0, 300);
  const uint64_t bytes = cache.allocated_bytes();
  EXPECT_THROW(
      {
        try {
          cache.BeginChunk(400, 300);
        } catch (const Error& e) {
          EXPECT_EQ(e.code(), ErrorCode::kMemoryLimit);
          throw;
        }
      },
      Error);
  EXPECT_EQ(cache.allocated_bytes(), bytes);
  EXPECT_EQ(cache.total_entries(), 4 * 300);
  ExpectIntact(cache, 1, 1);
  AppendTo(cache, 300, 100);  // still usable
  ExpectIntact(cache, 0, 1);
}

TEST(Cache, AMillionStepsOfEvictAndAppendNeitherLeakNorFragment) {
  Cache cache = MakeCache(1, 2);
  AppendTo(cache, 0, 512);
  cache.Trim();
  std::mt19937 random(11);
  std::vector<float> row(kDim, 1.0f);
  const MatrixView<const float> view{row.data(), 1, kDim, kDim};
  const float worth = 0;
  uint64_t settled = 0;
  const uint64_t rss_before = SystemMemory("VmRSS");
  for (int step = 0; step < 1000000; ++step) {
    cache.BeginChunk(1, 512 + step);
    for (int head = 0; head < 2; ++head) cache.Write(0, head, 0, view, view, {&worth, 1});
    cache.EndChunk();
    for (int head = 0; head < 2; ++head) {
      const int32_t hole = static_cast<int32_t>(random() % cache.n_entries(0, head));
      cache.Evict(0, head, {&hole, 1});
    }
    if (step == 1000) settled = cache.allocated_bytes();
  }
  EXPECT_EQ(cache.total_entries(), 2 * 512);
  EXPECT_EQ(cache.allocated_bytes(), settled);
  EXPECT_EQ(cache.peak_bytes(), settled);
  EXPECT_LE(cache.allocated_bytes(), 2 * (512 + 2 * kPageEntries) * (size_t{kDim} * 4 + 8) + 1024);
  if (kSystemMemoryTells) {
    EXPECT_LE(SystemMemory("VmRSS"), rss_before + (1u << 20));
  }
}

}  // namespace
}  // namespace pith
