// Every budget against a reference that sorts, on ragged heads with ties, NaN and infinities.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "budgets/budget.h"

namespace pith {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Head {
  int layer = 0;
  int kv_head = 0;
  std::vector<int32_t> positions;
  std::vector<float> worth;
};
using Heads = std::vector<Head>;
using Gone = std::vector<std::set<int32_t>>;  // positions, per head

std::unique_ptr<Budget> Make(const std::string& name) {
  Plan plan;
  plan.budget = name;
  return MakeBudget(plan, false);
}

// Positions that the budget evicts, after checks that every verdict must pass.
Gone Evicted(const Budget& budget, const Heads& heads, const BudgetLimits& limits) {
  std::vector<HeadEntries> entries;
  entries.reserve(heads.size());
  for (const Head& head : heads) {
    entries.push_back({head.layer, head.kv_head, head.positions, head.worth});
  }
  Verdicts verdicts = {{7}};  // what was there before must not matter
  budget.Allocate(entries, limits, verdicts);
  EXPECT_EQ(verdicts.size(), heads.size());
  Gone gone(heads.size());
  for (size_t h = 0; h < heads.size(); ++h) {
    int32_t above = static_cast<int32_t>(heads[h].positions.size());
    for (const int32_t i : verdicts[h]) {
      EXPECT_LT(i, above) << "not descending";
      EXPECT_GE(i, 0);
      above = i;
      gone[h].insert(heads[h].positions[static_cast<size_t>(i)]);
    }
  }
  return gone;
}

bool Protected(const Head& head, size_t i, const BudgetLimits& limits) {
  return head.positions[i] < limits.sinks || head.positions[i] >= limits.window_begin ||
         head.worth[i] == kInfinity;
}

int64_t EvenShare(int64_t total, size_t n, size_t h) {
  const auto heads = static_cast<int64_t>(n);
  return total / heads + (static_cast<int64_t>(h) < total % heads ? 1 : 0);
}

// What the header says, by sorting everything. `group` tells which heads share.
Gone Reference(const Heads& heads, const BudgetLimits& limits, double floor_part,
               const std::function<int(size_t)>& group) {
  struct Candidate {
    bool guaranteed;
    bool is_number;
    float worth;
    int32_t position;
    size_t head;
    auto Order() const { return std::tuple(guaranteed, is_number, worth, position, head); }
  };
  Gone gone(heads.size());
  std::set<int> groups;
  for (size_t h = 0; h < heads.size(); ++h) groups.insert(group(h));
  for (const int g : groups) {
    int64_t excess = 0;
    std::vector<Candidate> all;
    for (size_t h = 0; h < heads.size(); ++h) {
      if (group(h) != g) continue;
      const Head& head = heads[h];
      const int64_t share = EvenShare(limits.total, heads.size(), h);
      excess += static_cast<int64_t>(head.positions.size()) - share;
      std::vector<Candidate> own;
      int64_t n_protected = 0;
      for (size_t i = 0; i < head.positions.size(); ++i) {
        if (Protected(head, i, limits)) {
          ++n_protected;
        } else {
          const bool is_number = !std::isnan(head.worth[i]);
          own.push_back({false, is_number, is_number ? head.worth[i] : 0, head.positions[i], h});
        }
      }
      std::sort(own.begin(), own.end(), [](auto& a, auto& b) { return a.Order() > b.Order(); });
      const auto floor = static_cast<int64_t>(floor_part * static_cast<double>(share));
      for (int64_t i = 0; i < floor - n_protected && i < std::ssize(own); ++i) {
        own[static_cast<size_t>(i)].guaranteed = true;
      }
      all.insert(all.end(), own.begin(), own.end());
    }
    std::sort(all.begin(), all.end(), [](auto& a, auto& b) { return a.Order() < b.Order(); });
    for (int64_t i = 0; i < excess && i < std::ssize(all); ++i) {
      gone[all[static_cast<size_t>(i)].head].insert(all[static_cast<size_t>(i)].position);
    }
  }
  return gone;
}

struct Case {
  Heads heads;
  BudgetLimits limits;
};

// Ragged heads at gappy positions, in any order; heads with nothing; few or many distinct worths of
// both signs; sometimes NaN, infinities and signed zeros.
Case RandomCase(uint32_t seed) {
  std::mt19937 random(seed);
  const auto below = [&](uint32_t n) { return static_cast<int32_t>(random() % n); };
  Case out;
  const int n_layers = 1 + below(4), n_kv_heads = 1 + below(4);
  const int n_read = 1 + below(300);
  const std::vector<int> choices = {1, 2, 5, 1000000};
  const int distinct = choices[static_cast<size_t>(below(4))];
  const int half = distinct / 2;
  const bool odd_worths = below(2) == 0;
  int64_t n_entries = 0;
  for (int layer = 0; layer < n_layers; ++layer) {
    for (int h = 0; h < n_kv_heads; ++h) {
      Head head{layer, h, {}, {}};
      const uint32_t density = static_cast<uint32_t>(below(5));  // 0: nothing
      for (int position = 0; position < n_read; ++position) {
        if (random() % 4 < density) head.positions.push_back(position);
      }
      std::shuffle(head.positions.begin(), head.positions.end(), random);
      for (size_t i = 0; i < head.positions.size(); ++i) {
        float worth = static_cast<float>(below(static_cast<uint32_t>(distinct)) - half);
        if (odd_worths) {
          switch (below(12)) {
            case 0:
              worth = kInfinity;
              break;
            case 1:
              worth = -kInfinity;
              break;
            case 2:
              worth = std::nanf("");
              break;
            case 3:
              worth = -std::nanf("");
              break;
            case 4:
              worth = 0.0f;
              break;
            case 5:
              worth = -0.0f;
              break;
          }
        }
        head.worth.push_back(worth);
      }
      n_entries += std::ssize(head.positions);
      out.heads.push_back(std::move(head));
    }
  }
  out.limits.sinks = below(6);
  out.limits.window_begin = n_read - below(static_cast<uint32_t>(std::min(n_read, 40)));
  out.limits.total = below(static_cast<uint32_t>(n_entries + 20));
  if (below(3) == 0) out.limits.head_floor = static_cast<double>(below(11)) / 10;
  out.limits.tau = below(3) - 1;
  return out;
}

// The same entries in another order in memory.
Heads Shuffled(const Heads& heads, uint32_t seed) {
  std::mt19937 random(seed);
  Heads out = heads;
  for (size_t h = 0; h < heads.size(); ++h) {
    std::vector<size_t> order(heads[h].positions.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    for (size_t i = 0; i < order.size(); ++i) {
      out[h].positions[i] = heads[h].positions[order[i]];
      out[h].worth[i] = heads[h].worth[order[i]];
    }
  }
  return out;
}

class Shared : public ::testing::TestWithParam<const char*> {
 protected:
  const std::string name_ = GetParam();
  const std::unique_ptr<Budget> budget_ = Make(name_);
  int Group(const Heads& heads, size_t h) const {
    if (name_ == "global") return 0;
    return name_ == "uniform" ? static_cast<int>(h) : heads[h].layer;
  }
  double Floor(const BudgetLimits& limits) const {
    if (limits.head_floor >= 0) return limits.head_floor;
    return name_ == "adaptive" ? 0.2 : 0;
  }
};

TEST_P(Shared, EqualsTheReferenceInAnyOrderOfEntries) {
  int64_t n_gone = 0;
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    const auto [heads, limits] = RandomCase(seed);
    const Gone gone = Evicted(*budget_, heads, limits);
    const auto& all = heads;
    const auto group = [&](size_t h) { return Group(all, h); };
    ASSERT_EQ(gone, Reference(heads, limits, Floor(limits), group)) << "seed " << seed;
    ASSERT_EQ(gone, Evicted(*budget_, Shuffled(heads, seed), limits)) << "seed " << seed;
    for (const auto& head : gone) n_gone += std::ssize(head);
  }
  EXPECT_GT(n_gone, 100000);
}

TEST_P(Shared, TotalsAreExactAndTheProtectedStay) {
  int exact = 0;
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    const auto [heads, limits] = RandomCase(seed);
    const Gone gone = Evicted(*budget_, heads, limits);
    std::map<int, int64_t> total, entries, kept, guarded;
    for (size_t h = 0; h < heads.size(); ++h) {
      const int g = Group(heads, h);
      total[g] += EvenShare(limits.total, heads.size(), h);
      entries[g] += std::ssize(heads[h].positions);
      kept[g] += std::ssize(heads[h].positions) - std::ssize(gone[h]);
      for (size_t i = 0; i < heads[h].positions.size(); ++i) {
        if (!Protected(heads[h], i, limits)) continue;
        ++guarded[g];
        EXPECT_FALSE(gone[h].count(heads[h].positions[i])) << "seed " << seed;
      }
    }
    for (const auto& [g, want] : total) {
      ASSERT_EQ(kept[g], std::min(entries[g], std::max(want, guarded[g]))) << "seed " << seed;
      exact += kept[g] == want;
    }
  }
  EXPECT_GT(exact, 500);
}

TEST_P(Shared, EveryHeadKeepsItsFloorWhereTheProtectedLeaveRoom) {
  int at_the_floor = 0;
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    auto [heads, limits] = RandomCase(seed);
    for (Head& head : heads) {
      for (float& worth : head.worth) {
        if (worth == kInfinity) worth = 3;
      }
      // Worths that are not comparable at all, so that without a floor some heads lose everything.
      for (float& worth : head.worth) worth += 100.0f * static_cast<float>(head.kv_head);
    }
    limits.sinks = 0;
    limits.window_begin = std::numeric_limits<int32_t>::max();
    const Gone gone = Evicted(*budget_, heads, limits);
    for (size_t h = 0; h < heads.size(); ++h) {
      const int64_t kept = std::ssize(heads[h].positions) - std::ssize(gone[h]);
      const double share = static_cast<double>(EvenShare(limits.total, heads.size(), h));
      const int64_t floor = std::min<int64_t>(std::ssize(heads[h].positions),
                                              static_cast<int64_t>(Floor(limits) * share));
      ASSERT_GE(kept, floor) << "seed " << seed << " head " << h;
      at_the_floor += floor > 0 && kept == floor;
    }
  }
  EXPECT_GT(at_the_floor, 200);
}

TEST_P(Shared, WhenNothingMayStayOnlyTheProtectedDo) {
  const Heads heads = {{0, 0, {0, 1, 2, 3, 4}, {5, 6, kInfinity, 8, 9}}, {0, 1, {}, {}}};
  const Gone gone = Evicted(*budget_, heads, {1, 4, 0});
  EXPECT_EQ(gone, (Gone{{1, 3}, {}}));
  EXPECT_EQ(Evicted(*budget_, heads, {1, 4, 100}), (Gone{{}, {}}));
  EXPECT_TRUE(Evicted(*budget_, {}, {1, 4, 100}).empty());
}

INSTANTIATE_TEST_SUITE_P(Budgets, Shared,
                         ::testing::Values("uniform", "layer", "global", "adaptive"));

// Four heads in two layers, ten entries each; head h has worths from 100 h on, by position.
Heads Steps() {
  Heads heads;
  for (int h = 0; h < 4; ++h) {
    Head head{h / 2, h % 2, {}, {}};
    for (int i = 0; i < 10; ++i) {
      head.positions.push_back(i);
      head.worth.push_back(static_cast<float>(100 * h + i));
    }
    heads.push_back(head);
  }
  return heads;
}

std::vector<int64_t> Kept(const std::string& budget, const Heads& heads,
                          const BudgetLimits& limits) {
  const Gone gone = Evicted(*Make(budget), heads, limits);
  std::vector<int64_t> kept;
  for (size_t h = 0; h < heads.size(); ++h) {
    kept.push_back(std::ssize(heads[h].positions) - std::ssize(gone[h]));
  }
  return kept;
}

TEST(Budgets, SpreadDifferently) {
  const BudgetLimits limits{0, 100, 20};
  const Heads heads = Steps();
  EXPECT_EQ(Kept("uniform", heads, limits), (std::vector<int64_t>{5, 5, 5, 5}));
  EXPECT_EQ(Kept("layer", heads, limits), (std::vector<int64_t>{0, 10, 0, 10}));
  EXPECT_EQ(Kept("global", heads, limits), (std::vector<int64_t>{0, 0, 10, 10}));
  EXPECT_EQ(Kept("adaptive", heads, limits), (std::vector<int64_t>{1, 9, 1, 9}));
  EXPECT_EQ(Kept("global", heads, {0, 100, 20, 0.5}), (std::vector<int64_t>{2, 2, 6, 10}));
  EXPECT_EQ(Kept("uniform", heads, {0, 100, 22}), (std::vector<int64_t>{6, 6, 5, 5}));
}

TEST(Budgets, OfEqualWorthsTheOlderThenTheLowerHeadGoes) {
  Heads heads = Steps();
  for (Head& head : heads) std::fill(head.worth.begin(), head.worth.end(), 1.0f);
  // 22 go: positions 0 to 4 of all heads, and position 5 of the first two.
  const std::set<int32_t> five = {0, 1, 2, 3, 4}, six = {0, 1, 2, 3, 4, 5};
  EXPECT_EQ(Evicted(*Make("global"), heads, {0, 100, 18}), (Gone{six, six, five, five}));
}

TEST(Budgets, ProtectedEntriesOverOneTotalTakeNothingFromOtherGroups) {
  Heads heads = Steps();
  for (float& worth : heads[0].worth) worth = kInfinity;
  // Layer 0 may keep 8 and has 10 pinned; layer 1 keeps its own 8.
  EXPECT_EQ(Kept("layer", heads, {0, 100, 16}), (std::vector<int64_t>{10, 0, 0, 8}));
  EXPECT_EQ(Kept("global", heads, {0, 100, 16}), (std::vector<int64_t>{10, 0, 0, 6}));
  EXPECT_EQ(Kept("uniform", heads, {0, 100, 16}), (std::vector<int64_t>{10, 4, 4, 4}));
}

TEST(Budgets, FloorsGiveWayToTheProtected) {
  Heads heads = Steps();
  for (float& worth : heads[3].worth) worth = kInfinity;
  // Shares of 3, floors of 3: nine guaranteed and ten pinned, where twelve may stay.
  const std::vector<int64_t> kept = Kept("global", heads, {0, 100, 12, 1.0});
  EXPECT_EQ(kept, (std::vector<int64_t>{0, 0, 2, 10}));
}

TEST(ThresholdBudget, KeepsWhatReachesTauAndTheProtected) {
  const float nan = std::nanf("");
  const Heads heads = {{0, 0, {5, 0, 9, 3, 4, 6}, {-4.0f, -9, -9, -4.1f, nan, kInfinity}},
                       {0, 1, {1, 2, 3}, {1, -kInfinity, -3.9f}}};
  BudgetLimits limits{1, 9, 0};
  limits.tau = -4;
  EXPECT_EQ(Evicted(*Make("threshold"), heads, limits), (Gone{{3, 4}, {2}}));
  limits.total = 1000;
  EXPECT_EQ(Evicted(*Make("threshold"), heads, limits), (Gone{{3, 4}, {2}}));
  for (uint32_t seed = 0; seed < 300; ++seed) {
    const auto [all, random_limits] = RandomCase(seed);
    const Gone gone = Evicted(*Make("threshold"), all, random_limits);
    for (size_t h = 0; h < all.size(); ++h) {
      for (size_t i = 0; i < all[h].positions.size(); ++i) {
        const bool stays =
            Protected(all[h], i, random_limits) || all[h].worth[i] >= random_limits.tau;
        ASSERT_EQ(gone[h].count(all[h].positions[i]), stays ? 0u : 1u);
      }
    }
  }
}

TEST(Budgets, KeepOnKeepingWhatTheyKept) {
  for (const char* name : {"uniform", "layer", "global", "adaptive"}) {
    auto [heads, limits] = RandomCase(17);
    const Gone gone = Evicted(*Make(name), heads, limits);
    Heads left = heads;
    for (size_t h = 0; h < heads.size(); ++h) {
      left[h].positions.clear();
      left[h].worth.clear();
      for (size_t i = 0; i < heads[h].positions.size(); ++i) {
        if (gone[h].count(heads[h].positions[i])) continue;
        left[h].positions.push_back(heads[h].positions[i]);
        left[h].worth.push_back(heads[h].worth[i]);
      }
    }
    EXPECT_EQ(Evicted(*Make(name), left, limits), Gone(heads.size())) << name;
  }
}

}  // namespace
}  // namespace pith
