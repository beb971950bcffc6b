#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "budgets/budget.h"
#include "pith/error.h"

namespace pith {
namespace {

struct Head {
  std::vector<int32_t> positions;
  std::vector<float> worth;
};

Head RandomHead(int n, uint32_t seed, int distinct_worths) {
  std::mt19937 random(seed);
  Head head;
  for (int i = 0; i < n; ++i) {
    head.positions.push_back(i);
    head.worth.push_back(static_cast<float>(random() % distinct_worths));
  }
  std::shuffle(head.positions.begin(), head.positions.end(), random);
  return head;
}

TEST(UniformBudget, KeepsTheBestAndNeverTouchesSinksAndWindow) {
  for (const int distinct : {1, 3, 1000000}) {
    const Head a = RandomHead(500, 1, distinct), b = RandomHead(500, 2, distinct);
    const std::vector<HeadEntries> heads = {{0, 0, a.positions, a.worth},
                                            {0, 1, b.positions, b.worth}};
    const BudgetLimits limits{4, 500 - 128, 401};
    Verdicts verdicts;
    UniformBudget().Allocate(heads, limits, verdicts);
    ASSERT_EQ(verdicts.size(), 2u);
    EXPECT_EQ(500 - verdicts[0].size() + 500 - verdicts[1].size(), 401u);
    for (int h = 0; h < 2; ++h) {
      const Head& head = h == 0 ? a : b;
      EXPECT_TRUE(std::is_sorted(verdicts[h].begin(), verdicts[h].end(), std::greater<>()));
      const std::set<int32_t> gone(verdicts[h].begin(), verdicts[h].end());
      EXPECT_EQ(gone.size(), verdicts[h].size());
      std::pair<float, int32_t> best_gone{-1, -1}, worst_kept{1e9, 1 << 30};
      for (int i = 0; i < 500; ++i) {
        const bool is_protected = head.positions[i] < 4 || head.positions[i] >= 372;
        if (gone.count(i)) {
          EXPECT_FALSE(is_protected);
          best_gone = std::max(best_gone, {head.worth[i], head.positions[i]});
        } else if (!is_protected) {
          worst_kept = std::min(worst_kept, {head.worth[i], head.positions[i]});
        }
      }
      EXPECT_LT(best_gone, worst_kept);
    }
  }
}

TEST(UniformBudget, TheOrderOfEntriesDoesNotMatter) {
  const Head head = RandomHead(300, 5, 4);
  std::vector<int> order(300);
  for (int i = 0; i < 300; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937(9));
  Head shuffled;
  for (const int i : order) {
    shuffled.positions.push_back(head.positions[i]);
    shuffled.worth.push_back(head.worth[i]);
  }
  std::set<int32_t> gone[2];
  for (int k = 0; k < 2; ++k) {
    const Head& h = k == 0 ? head : shuffled;
    const std::vector<HeadEntries> heads = {{0, 0, h.positions, h.worth}};
    Verdicts verdicts;
    UniformBudget().Allocate(heads, {2, 280, 100}, verdicts);
    for (const int32_t i : verdicts[0]) gone[k].insert(h.positions[i]);
  }
  EXPECT_EQ(gone[0].size(), 200u);
  EXPECT_EQ(gone[0], gone[1]);
}

TEST(UniformBudget, NothingToDoForNoHeadsOrEnoughRoom) {
  Verdicts verdicts;
  UniformBudget().Allocate({}, {4, 10, 100}, verdicts);
  EXPECT_TRUE(verdicts.empty());
  const Head head = RandomHead(50, 1, 10);
  const std::vector<HeadEntries> heads = {{0, 0, head.positions, head.worth}};
  UniformBudget().Allocate(heads, {4, 10, 50}, verdicts);
  EXPECT_TRUE(verdicts[0].empty());
}

TEST(EntriesPerHead, FollowsEveryKindOfKeep) {
  Plan plan;
  EXPECT_GT(EntriesPerHead(plan, 1 << 20, 90, 0, 1000), 1 << 20);
  plan.keep = {Keep::Kind::kFraction, 0.25};
  EXPECT_EQ(EntriesPerHead(plan, 8001, 90, 0, 1000), 2001);
  EXPECT_EQ(EntriesPerHead(plan, 100, 90, 0, 1000), 132);
  plan.keep = {Keep::Kind::kEntries, 1.0, 512};
  EXPECT_EQ(EntriesPerHead(plan, 8000, 90, 0, 1000), 512);
  plan.keep = {Keep::Kind::kBytes, 1.0, 0, 90 * 1000 * 10};
  EXPECT_EQ(EntriesPerHead(plan, 8000, 90, 0, 1000), 640);
  // 60 heads compressed, 30 whole with 8000 tokens in 125 pages each.
  plan.keep.bytes = 1000 * (30 * 125 + 60 * 7) + 999;
  EXPECT_EQ(EntriesPerHead(plan, 8000, 60, 30, 1000), 448);
  plan.keep.bytes = 1000 * (30 * 125 + 60 * 2);
  EXPECT_THROW(EntriesPerHead(plan, 8000, 60, 30, 1000), Error);
}

TEST(CheckPlan, RefusesWhatMakesNoSense) {
  Plan plan;
  EXPECT_NO_THROW(CheckPlan(plan));
  plan.window = 0;
  EXPECT_THROW(CheckPlan(plan), Error);
  plan = {};
  plan.sinks = -1;
  EXPECT_THROW(CheckPlan(plan), Error);
  plan = {};
  plan.keep = {Keep::Kind::kEntries, 1.0, 131};
  EXPECT_THROW(CheckPlan(plan), Error);
  plan.keep.entries = 132;
  EXPECT_NO_THROW(CheckPlan(plan));
  plan.keep = {Keep::Kind::kFraction, 1.5};
  EXPECT_THROW(CheckPlan(plan), Error);
}

}  // namespace
}  // namespace pith
