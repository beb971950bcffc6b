#include "cache/page_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <set>
#include <vector>

#include "memory_probe.h"

namespace pith {
namespace {

constexpr size_t kPage = 16384;

TEST(PagePool, PagesAreAlignedDistinctAndRounded) {
  PagePool pool(kPage + 1);
  EXPECT_EQ(pool.page_bytes(), kPage + 64);
  std::set<std::byte*> seen;
  for (int i = 0; i < 200; ++i) {
    std::byte* page = pool.Allocate();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(page) % 64, 0u);
    std::memset(page, i, pool.page_bytes());
    EXPECT_TRUE(seen.insert(page).second);
  }
  for (auto a = seen.begin(), b = std::next(a); b != seen.end(); ++a, ++b) {
    EXPECT_GE(*b - *a, static_cast<ptrdiff_t>(pool.page_bytes()));
  }
  EXPECT_EQ(pool.used_bytes(), 200 * pool.page_bytes());
  EXPECT_EQ(pool.allocated_bytes(), (200 * pool.page_bytes() + 4095) / 4096 * 4096);
}

TEST(PagePool, FreePagesAreReusedBeforeMoreIsTaken) {
  PagePool pool(kPage);
  std::vector<std::byte*> pages;
  for (int i = 0; i < 100; ++i) pages.push_back(pool.Allocate());
  for (int i = 10; i < 60; ++i) pool.Free(pages[i]);
  EXPECT_EQ(pool.used_bytes(), 50 * kPage);
  EXPECT_EQ(pool.allocated_bytes(), 100 * kPage);
  for (int i = 0; i < 50; ++i) pool.Allocate();
  EXPECT_EQ(pool.allocated_bytes(), 100 * kPage);
}

TEST(PagePool, TrimGivesEveryFreePageBackToTheSystem) {
  PagePool pool(kPage);
  constexpr int kPages = 4096;  // 64 MiB
  const uint64_t before = SystemMemory("VmRSS");
  std::vector<std::byte*> pages;
  for (int i = 0; i < kPages; ++i) {
    pages.push_back(pool.Allocate());
    std::memset(pages.back(), 1, kPage);
  }
  const uint64_t full = SystemMemory("VmRSS");
  if (kSystemMemoryTells) {
    EXPECT_GT(full - before, kPages * kPage * 9 / 10);
  }
  std::shuffle(pages.begin(), pages.end(), std::mt19937(1));
  for (int i = 0; i < kPages * 3 / 4; ++i) pool.Free(pages[i]);
  pool.Trim();
  EXPECT_EQ(pool.allocated_bytes(), kPages / 4 * kPage);
  if (kSystemMemoryTells) {
    EXPECT_LT(SystemMemory("VmRSS") - before, kPages / 4 * kPage * 11 / 10);
  }
  for (int i = kPages * 3 / 4; i < kPages; ++i) {
    EXPECT_EQ(pages[i][kPage - 1], std::byte{1});  // what is in use was not touched
    pool.Free(pages[i]);
  }
  pool.Trim();
  EXPECT_EQ(pool.allocated_bytes(), 0u);
}

TEST(PagePool, HugePagesHoldNoMoreThanIsUsedAndKeepWhatIsWritten) {
  PagePool pool(kPage);
  constexpr int kPages = 4 * 128 + 1;  // four whole chunks, of one huge page each, and one page
  const uint64_t before = SystemMemory("VmRSS");
  std::vector<std::byte*> pages;
  const auto expect_held = [&](size_t n) {
    EXPECT_EQ(pool.allocated_bytes(), n * kPage);
    if (kSystemMemoryTells) {
      EXPECT_LT(SystemMemory("VmRSS") - before, n * kPage + (uint64_t{1} << 20));
    }
  };
  for (int i = 0; i < kPages; ++i) {
    pages.push_back(pool.Allocate());
    std::memset(pages.back(), i % 251, kPage);  // the last one's neighbours are made huge around it
  }
  expect_held(kPages);
  for (int i = 0; i < kPages; ++i) {
    ASSERT_EQ(pages[i][0], std::byte(i % 251));
    ASSERT_EQ(pages[i][kPage - 1], std::byte(i % 251));
  }
  for (int i = 0; i < kPages; i += 2) pool.Free(pages[i]);
  pool.Trim();  // a part of each huge page
  expect_held(kPages / 2);
  for (int i = 0; i < kPages; i += 2) pages[i] = pool.Allocate();  // whole again
  for (int i = 1; i < kPages; i += 2) ASSERT_EQ(pages[i][kPage / 2], std::byte(i % 251));
  expect_held(kPages);
}

// Pages of codes are no multiples of the system's.
TEST(PagePool, OddPagesShareTheSystemsAndGiveThemBackTogether) {
  constexpr size_t kOdd = 4608;
  PagePool pool(kOdd);
  const uint64_t before = SystemMemory("VmRSS");
  std::vector<std::byte*> pages;
  for (int i = 0; i < 6000; ++i) {
    pages.push_back(pool.Allocate());
    std::memset(pages.back(), i % 251, kOdd);
  }
  EXPECT_LE(pool.allocated_bytes(), 6000 * kOdd + 12 * 4096);
  if (kSystemMemoryTells) {
    EXPECT_LT(SystemMemory("VmRSS") - before, 6000 * kOdd + (uint64_t{1} << 20));
  }
  for (int i = 0; i < 6000; ++i) {
    if (i % 12 >= 3) pool.Free(pages[i]);
  }
  pool.Trim();
  EXPECT_LE(pool.allocated_bytes(), 500 * (3 * kOdd + 2 * 4096));
  if (kSystemMemoryTells) {
    EXPECT_LT(SystemMemory("VmRSS") - before, 500 * (3 * kOdd + 2 * 4096) + (uint64_t{1} << 20));
  }
  for (int i = 0; i < 6000; ++i) {
    if (i % 12 >= 3) continue;
    ASSERT_EQ(pages[i][0], std::byte(i % 251));
    ASSERT_EQ(pages[i][kOdd - 1], std::byte(i % 251));
    pool.Free(pages[i]);
  }
  pool.Trim();
  EXPECT_EQ(pool.allocated_bytes(), 0u);
}

TEST(PageBits, AreASet) {
  PageBits bits;
  EXPECT_EQ(bits.lowest(), PageBits::kSize);
  EXPECT_TRUE(bits.empty());
  for (const int i : {127, 64, 63, 0}) {
    bits.Add(i);
    EXPECT_EQ(bits.lowest(), i);
    EXPECT_TRUE(bits.Has(i));
  }
  EXPECT_EQ(bits.size(), 4);
  EXPECT_EQ((PageBits::First(128) - bits).size(), 124);
  EXPECT_EQ(((PageBits::First(128) - bits) & bits).size(), 0);
  bits.Remove(0);
  EXPECT_EQ(bits.lowest(), 63);
  EXPECT_FALSE(bits == PageBits::First(128));
  EXPECT_EQ(PageBits::First(1024).size(), 1024);
}

TEST(PagePool, RandomUseKeepsPagesApart) {
  PagePool pool(4096);
  std::mt19937 random(7);
  std::vector<std::pair<std::byte*, uint32_t>> pages;
  for (uint32_t step = 0; step < 200000; ++step) {
    const uint32_t dice = random() % 100;
    if (dice < 51 && pages.size() < 3000) {
      std::byte* page = pool.Allocate();
      std::memcpy(page, &step, sizeof(step));
      pages.emplace_back(page, step);
    } else if (dice < 99 && !pages.empty()) {
      std::swap(pages[random() % pages.size()], pages.back());
      uint32_t mark;
      std::memcpy(&mark, pages.back().first, sizeof(mark));
      ASSERT_EQ(mark, pages.back().second);
      pool.Free(pages.back().first);
      pages.pop_back();
    } else if (dice == 99 && step % 50 == 0) {
      pool.Trim();
      ASSERT_EQ(pool.allocated_bytes(), pool.used_bytes());
    }
    ASSERT_EQ(pool.used_bytes(), pages.size() * 4096);
    ASSERT_GE(pool.allocated_bytes(), pool.used_bytes());
  }
}

}  // namespace
}  // namespace pith
