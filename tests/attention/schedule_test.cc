// The cuts: nothing lost, nothing twice, equal work. The plan: reuse, late threads, misuse.
#include "attention/schedule.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstdlib>

#include "pith/error.h"
#include "problem.h"

namespace pith {
namespace {

std::vector<HeadView> Views(const std::vector<int64_t>& counts, int64_t n_chunk) {
  std::vector<HeadView> views;
  for (const int64_t n : counts) views.push_back(ExactHead(nullptr, n, n_chunk, 64));
  return views;
}

// Work of a part: blocks x queries, x what `costs` says of the block's tier.
int64_t Work(const Schedule& schedule, const Cut& begin, const Cut& end,
             const std::array<int64_t, kMaxTiers>& costs = {1, 1, 1, 1}) {
  int64_t work = 0;
  for (int i = 0; i < schedule.n_tasks(); ++i) {
    const Task task = schedule.task(i);
    const BlockRange range = PartOfTask(begin, end, i, task.all_blocks());
    int64_t first = 0;
    for (int tier = 0; tier < kMaxTiers; first += task.n_blocks[tier], ++tier) {
      const int64_t last = std::min(range.end - first, task.n_blocks[tier]);
      work += std::max<int64_t>(last - std::max<int64_t>(range.begin - first, 0), 0) *
              task.n_tokens * costs[tier];
    }
  }
  return work;
}

TEST(Schedule, TasksCoverEveryHeadAndQueryOnce) {
  const std::vector<int64_t> counts = {0, 700, 65, 5000};
  for (const int64_t n_chunk : {0, 50}) {
    std::vector<int64_t> with_chunk = counts;
    for (int64_t& n : with_chunk) n += n_chunk;
    const std::vector<HeadView> views = Views(with_chunk, n_chunk);
    const Schedule schedule(views, 50, 16, n_chunk == 0);
    std::vector<int> seen(4 * 50);
    for (int i = 0; i < schedule.n_tasks(); ++i) {
      const Task task = schedule.task(i);
      const int end = task.token_begin + task.n_tokens;
      for (int t = task.token_begin; t < end; ++t) ++seen[task.head * 50 + t];
      EXPECT_EQ(task.n_entries[0], n_chunk == 0 ? counts[task.head] : counts[task.head] + end);
      EXPECT_GE(task.n_blocks[0], 1);
      EXPECT_GE(task.n_blocks[0] * kBlockEntries, task.n_entries[0]);
      EXPECT_LT((task.n_blocks[0] - 1) * kBlockEntries, std::max<int64_t>(task.n_entries[0], 1));
    }
    for (const int n : seen) EXPECT_EQ(n, 1);
  }
}

TEST(Schedule, PartsAreEqualAndSumToTheWhole) {
  std::minstd_rand random(3);
  for (int round = 0; round < 300; ++round) {
    const int n_tokens = 1 + static_cast<int>(random() % 80);
    const int query_block = 1 + static_cast<int>(random() % 70);
    std::vector<int64_t> counts(1 + random() % 9);
    for (int64_t& n : counts) n = random() % 3 == 0 ? random() % 40000 : random() % 100;
    if (round % 5 == 0) {  // one head holds everything
      std::fill(counts.begin(), counts.end(), 0);
      counts[random() % counts.size()] = 50000;
    }
    const int64_t n_chunk = round % 2 == 0 ? 0 : n_tokens;
    for (int64_t& n : counts) n += n_chunk;
    const std::vector<HeadView> views = Views(counts, n_chunk);
    const Schedule schedule(views, n_tokens, query_block, round % 3 == 0);
    const int64_t total = Work(schedule, {0, 0}, {schedule.n_tasks(), 0});
    for (const int n_parts : {1, 2, 3, 8, 64}) {
      std::vector<Cut> cuts(n_parts + 1);
      schedule.MakeCuts(cuts);
      EXPECT_EQ(cuts.front(), (Cut{0, 0}));
      EXPECT_EQ(cuts.back(), (Cut{schedule.n_tasks(), 0}));
      int64_t sum = 0;
      for (int part = 0; part < n_parts; ++part) {
        const int64_t work = Work(schedule, cuts[part], cuts[part + 1]);
        sum += work;
        // A cut falls on the nearest block boundary, half a block of queries away at most.
        EXPECT_LE(std::llabs(work * n_parts - total), int64_t{n_parts} * (query_block + 1));
      }
      EXPECT_EQ(sum, total);
    }
  }
}

// Of tiers that take different bytes, parts are of equal bytes.
TEST(Schedule, TiersCountByTheirBytes) {
  std::minstd_rand random(5);
  for (int round = 0; round < 100; ++round) {
    std::vector<HeadView> views = Views(std::vector<int64_t>(1 + random() % 5, 0), 0);
    std::array<int64_t, kMaxTiers> costs = {16384, 4608, 8704, 0};
    for (HeadView& view : views) {
      view.n_tiers = 3;
      for (int tier = 0; tier < 3; ++tier) {
        view.tiers[tier].n_entries = random() % 3 == 0 ? random() % 20000 : random() % 100;
        view.tiers[tier].page_bytes = static_cast<size_t>(costs[tier]);
      }
    }
    const Schedule schedule(views, 1, 1, true);
    const int64_t total = Work(schedule, {0, 0}, {schedule.n_tasks(), 0}, costs);
    for (const int n_parts : {1, 3, 16}) {
      std::vector<Cut> cuts(n_parts + 1);
      schedule.MakeCuts(cuts);
      int64_t sum = 0;
      for (int part = 0; part < n_parts; ++part) {
        const int64_t work = Work(schedule, cuts[part], cuts[part + 1], costs);
        sum += work;
        EXPECT_LE(std::llabs(work * n_parts - total), n_parts * (costs[0] + 1));
      }
      EXPECT_EQ(sum, total);
    }
  }
}

// The oldest pages in a tier of their own, in f16 as well: whatever the cuts, it is the same sum.
TEST(AttentionPlan, TiersAreOneSum) {
  for (const int n_tokens : {1, 3, 70}) {
    const Problem p = MakeProblem(64, 3, {900, 40, 64, 2000}, n_tokens, true, 11);
    std::vector<HeadView> views = p.views();
    for (HeadView& view : views) {
      const int64_t n_old = view.n_entries() < 200 ? view.n_entries() > 128 : 2;
      view.n_tiers = 2;
      view.tiers[1] = view.tiers[0];
      view.tiers[1].n_entries = n_old * kPageEntries;
      view.tiers[0].pages += n_old;
      view.tiers[0].n_entries -= n_old * kPageEntries;
    }
    std::vector<double> want(p.q.size());
    ReferenceAttention(p.shape, p.q.data(), n_tokens, views, want.data());
    EXPECT_EQ(want, Reference(p));
    for (const int n_threads : {1, 5}) {
      AttentionPlan plan(p.shape, n_threads);
      plan.Prepare(n_tokens);
      std::vector<float> out(p.q.size(), std::numeric_limits<float>::quiet_NaN());
      std::vector<std::thread> threads;
      for (int t = 0; t < n_threads; ++t) {
        threads.emplace_back([&, t] { plan.Run(p.q.data(), views, out.data(), t, n_threads); });
      }
      for (std::thread& thread : threads) thread.join();
      EXPECT_LE(WorstError(p, out, want), 1.0) << n_tokens << " " << n_threads;
    }
  }
}

// Pieces of one task, for merging: parts inside one task touch it on one side each at most.
TEST(Schedule, OneHeadHoldingEverythingIsSharedByAll) {
  const std::vector<HeadView> views = Views({0, 64000, 0}, 0);
  const Schedule schedule(views, 1, 1, true);
  std::vector<Cut> cuts(9);
  schedule.MakeCuts(cuts);
  for (int part = 0; part < 8; ++part) {
    const BlockRange range = PartOfTask(cuts[part], cuts[part + 1], 1, 2000);
    EXPECT_NEAR(static_cast<double>(range.end - range.begin), 250.0, 1.0);
  }
}

TEST(AttentionPlan, ReusedWithOtherHeadsAndThreads) {
  const std::vector<std::vector<int64_t>> all_counts = {{300, 5, 64}, {0, 1000, 2}, {31, 33, 0}};
  AttentionPlan plan({.head_dim = 64, .n_heads = 9, .n_kv_heads = 3, .scale = 0.125f}, 4);
  for (const int n_tokens : {1, 70, 4, 70, 1}) {
    plan.Prepare(n_tokens);
    for (const auto& counts : all_counts) {
      const Problem p = MakeProblem(64, 3, counts, n_tokens, true, n_tokens);
      const std::vector<double> want = Reference(p);
      for (const int threads : {4, 1, 3, 2}) {
        std::vector<float> out(p.q.size(), std::numeric_limits<float>::quiet_NaN());
        RunOnThreads(plan, p, threads, out.data());
        ASSERT_LE(WorstError(p, out, want), 1.0) << n_tokens << " " << threads;
      }
    }
  }
}

// A thread may come when the others have long done all the work, and the next run may begin at
// once.
TEST(AttentionPlan, LateThreads) {
  constexpr int kThreads = 3;
  const Problem p = MakeProblem(64, 3, {90, 700, 0}, 2, true, 4);
  const std::vector<HeadView> views = p.views();
  const std::vector<double> want = Reference(p);
  AttentionPlan plan(p.shape, kThreads);
  plan.Prepare(2);
  for (int late = 0; late < kThreads; ++late) {
    std::vector<float> out(p.q.size(), std::numeric_limits<float>::quiet_NaN());
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      if (t == late) continue;
      threads.emplace_back([&, t] { plan.Run(p.q.data(), views, out.data(), t, kThreads); });
    }
    for (std::thread& thread : threads) thread.join();
    plan.Run(p.q.data(), views, out.data(), late, kThreads);
    ASSERT_LE(WorstError(p, out, want), 1.0) << late;
  }
}

// Runs back to back on threads that meet at a barrier of their own, as in a graph, with jitter.
TEST(AttentionPlan, BackToBackRuns) {
  constexpr int kThreads = 3;
  constexpr int kRounds = 400;
  for (const int n_tokens : {1, 45}) {
    const Problem p = MakeProblem(64, 3, {40, 130, 0}, n_tokens, true, 4);
    const std::vector<HeadView> views = p.views();
    AttentionPlan plan(p.shape, kThreads);
    plan.Prepare(n_tokens);
    std::vector<std::vector<float>> outs(2, std::vector<float>(p.q.size()));
    std::atomic<int> arrived{0};
    const auto work = [&](int thread) {
      std::minstd_rand random(thread + 1);
      for (int round = 0; round < kRounds; ++round) {
        if (random() % 8 == 0)
          std::this_thread::sleep_for(std::chrono::microseconds(random() % 50));
        plan.Run(p.q.data(), views, outs[round % 2].data(), thread, kThreads);
        arrived.fetch_add(1, std::memory_order_acq_rel);
        while (arrived.load(std::memory_order_acquire) < (round + 1) * kThreads) {
          std::this_thread::yield();
        }
      }
    };
    std::vector<std::thread> threads;
    for (int t = 1; t < kThreads; ++t) threads.emplace_back(work, t);
    work(0);
    for (std::thread& thread : threads) thread.join();
    EXPECT_LE(WorstError(p, outs[0], Reference(p)), 1.0);
    EXPECT_EQ(outs[0], outs[1]);
  }
}

TEST(AttentionPlan, MisuseIsAnError) {
  const AttentionShape good = {.head_dim = 64, .n_heads = 9, .n_kv_heads = 3, .scale = 0.125f};
  EXPECT_THROW(AttentionPlan(good, 0), Error);
  AttentionShape bad = good;
  bad.n_kv_heads = 2;
  EXPECT_THROW(AttentionPlan(bad, 1), Error);
  for (const int head_dim : {0, -8, 63, 264}) {
    bad = good;
    bad.head_dim = head_dim;
    EXPECT_THROW(AttentionPlan(bad, 1), Error);
  }
  AttentionPlan plan(good, 1);
  EXPECT_THROW(plan.Prepare(0), Error);
}

}  // namespace
}  // namespace pith
