// Several sequences in one run: each gives what it gives alone.
#include <gtest/gtest.h>

#include "pith/error.h"
#include "problem.h"

namespace pith {
namespace {

// Sequences side by side, as a plan takes them.
struct Sequences {
  std::vector<Problem> each;
  std::vector<float> q;  // [n_sequences, n_tokens, n_heads, head_dim]

  std::vector<HeadView> views() const {
    std::vector<HeadView> all;
    for (const Problem& p : each) {
      const std::vector<HeadView> views = p.views();
      all.insert(all.end(), views.begin(), views.end());
    }
    return all;
  }
};

constexpr int kKvHeads = 3;

// Ragged in their heads and in their lengths; every third one has nothing before its chunk.
Sequences MakeSequences(int head_dim, int group, int n_sequences, int n_tokens, bool causal) {
  Sequences all;
  std::minstd_rand random(n_sequences * 31 + n_tokens);
  for (int i = 0; i < n_sequences; ++i) {
    std::vector<int64_t> counts(kKvHeads);
    for (int64_t& n : counts) n = i % 3 == 2 ? 0 : random() % (i % 2 == 0 ? 70 : 300);
    all.each.push_back(MakeProblem(head_dim, group, counts, n_tokens, causal, 100 + i));
    all.q.insert(all.q.end(), all.each.back().q.begin(), all.each.back().q.end());
  }
  return all;
}

void ExpectEachAsAlone(AttentionPlan& plan, const Sequences& all, int n_threads) {
  const std::vector<HeadView> views = all.views();
  std::vector<float> out(all.q.size(), std::numeric_limits<float>::quiet_NaN());
  std::vector<std::thread> threads;
  for (int t = 1; t < n_threads; ++t) {
    threads.emplace_back([&, t] { plan.Run(all.q.data(), views, out.data(), t, n_threads); });
  }
  plan.Run(all.q.data(), views, out.data(), 0, n_threads);
  for (std::thread& thread : threads) thread.join();
  size_t begin = 0;
  for (const Problem& p : all.each) {
    const auto from = out.begin() + static_cast<ptrdiff_t>(begin);
    const std::vector<float> own(from, from + static_cast<ptrdiff_t>(p.q.size()));
    EXPECT_LE(WorstError(p, own, Reference(p)), 1.0);
    begin += p.q.size();
  }
}

TEST(Sequences, EachIsAsAlone) {
  int index = 0;
  for (const std::string& level : AvailableSimdLevels()) {
    const ForcedLevel forced(level);
    ASSERT_TRUE(forced.taken());
    for (const int head_dim : {64, 80}) {
      for (const int group : {1, 3}) {
        for (const int n_sequences : {1, 2, 3, 8}) {
          for (const int n_tokens : {1, 2, 70}) {
            for (const bool causal : {true, false}) {
              if (index++ % kEvery != 0) continue;
              SCOPED_TRACE(level + " " + std::to_string(head_dim) + " " + std::to_string(group) +
                           " " + std::to_string(n_sequences) + " " + std::to_string(n_tokens));
              const Sequences all = MakeSequences(head_dim, group, n_sequences, n_tokens, causal);
              AttentionPlan plan(all.each[0].shape, 3);
              plan.Prepare(n_tokens, n_sequences);
              for (const int n_threads : {1, 2, 3}) ExpectEachAsAlone(plan, all, n_threads);
            }
          }
        }
      }
    }
  }
}

// A batch loses and gains sessions from step to step.
TEST(Sequences, ThePlanTakesOtherNumbersOfThem) {
  AttentionPlan plan({.head_dim = 64, .n_heads = 9, .n_kv_heads = kKvHeads, .scale = 0.125f}, 2);
  for (const int n_tokens : {1, 70}) {
    for (const int n_sequences : {8, 1, 3, 8, 2}) {
      plan.Prepare(n_tokens, n_sequences);
      ExpectEachAsAlone(plan, MakeSequences(64, 3, n_sequences, n_tokens, true), 2);
    }
  }
}

// One long sequence beside short ones is shared by all threads.
TEST(Sequences, OneHoldsNearlyEverything) {
  Sequences all = MakeSequences(64, 3, 4, 1, true);
  all.each[1] = MakeProblem(64, 3, {20000, 3, 0}, 1, true, 7);
  std::copy(all.each[1].q.begin(), all.each[1].q.end(),
            all.q.begin() + static_cast<ptrdiff_t>(all.each[0].q.size()));
  AttentionPlan plan(all.each[0].shape, 4);
  plan.Prepare(1, 4);
  for (const int n_threads : {4, 2, 3, 1}) ExpectEachAsAlone(plan, all, n_threads);
}

TEST(Sequences, NoneIsAnError) {
  AttentionPlan plan({.head_dim = 64, .n_heads = 9, .n_kv_heads = kKvHeads, .scale = 0.125f}, 1);
  EXPECT_THROW(plan.Prepare(1, 0), Error);
  EXPECT_THROW(plan.Prepare(1, -1), Error);
}

}  // namespace
}  // namespace pith
