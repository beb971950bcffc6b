// From a plan to a budget, and to the number of entries it shares.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "budgets/budget.h"
#include "pith/error.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

using testing::ExpectError;

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

Plan PlanOf(const std::string& keep, const std::string& budget = "auto") {
  Plan plan;
  plan.keep = Keep::Parse(keep);
  plan.budget = budget;
  return plan;
}

TEST(MakeBudget, AutoFollowsTheKeepAndTheScorer) {
  EXPECT_EQ(MakeBudget(PlanOf("25%"), true)->name(), "global");
  EXPECT_EQ(MakeBudget(PlanOf("25%"), false)->name(), "uniform");
  EXPECT_EQ(MakeBudget(PlanOf("tau=-4"), true)->name(), "threshold");
  EXPECT_EQ(MakeBudget(PlanOf("tau=-4"), false)->name(), "threshold");
}

TEST(MakeBudget, KnowsItsNamesAndRefusesOthers) {
  const std::vector<std::string> names = BudgetNames();
  EXPECT_EQ(names, (std::vector<std::string>{"auto", "uniform", "layer", "global", "adaptive",
                                             "threshold"}));
  for (const std::string& name : names) {
    if (name == "auto") continue;
    const auto budget = MakeBudget(PlanOf("25%", name), true);
    EXPECT_EQ(budget->name(), name);
    EXPECT_EQ(budget->ragged(), name != "uniform") << name;
  }
  ExpectError(ErrorCode::kInvalidArgument,
              "expected one of auto, uniform, layer, global, adaptive, threshold",
              [] { MakeBudget(PlanOf("25%", "fair"), true); });
}

TEST(EntriesPerHead, FollowsEveryKindOfKeep) {
  EXPECT_EQ(EntriesPerHead(Plan{}, 1 << 20, 90, 0, {1000}, false), kNoLimit);
  EXPECT_EQ(EntriesPerHead(PlanOf("tau=-4"), 1 << 20, 90, 0, {1000}, true), kNoLimit);
  EXPECT_EQ(EntriesPerHead(PlanOf("25%"), 8001, 90, 0, {1000}, false), 2001);
  EXPECT_EQ(EntriesPerHead(PlanOf("25%"), 100, 90, 0, {1000}, false), 132);
  EXPECT_EQ(EntriesPerHead(PlanOf("512"), 8000, 90, 0, {1000}, false), 512);
  EXPECT_EQ(EntriesPerHead(PlanOf("512"), 8000, 0, 90, {1000}, false), kNoLimit);
  Plan plan = PlanOf("900000B");
  EXPECT_EQ(EntriesPerHead(plan, 8000, 90, 0, {1000}, false), 640);
  // 60 heads compressed, 30 whole with 8000 tokens in 125 pages each.
  plan.keep.bytes = 1000 * (30 * 125 + 60 * 7) + 999;
  EXPECT_EQ(EntriesPerHead(plan, 8000, 60, 30, {1000}, false), 448);
  plan.keep.bytes = 1000 * (30 * 125 + 60 * 2);
  for (const bool ragged : {false, true}) {
    ExpectError(ErrorCode::kInvalidArgument, "takes at least 3930000",
                [&] { EntriesPerHead(plan, 8000, 60, 30, {1000}, ragged); });
  }
  plan.keep.bytes = 3930000;
  EXPECT_EQ(EntriesPerHead(plan, 8000, 60, 30, {1000}, false), 192);
  EXPECT_EQ(EntriesPerHead(plan, 8000, 60, 30, {1000}, true), 132);
}

int64_t Pages(int64_t n) { return (n + 63) / 64; }

TEST(EntriesPerHead, RaggedHeadsFitTheirBytesHoweverTheyAreSpread) {
  std::mt19937 random(3);
  for (int round = 0; round < 500; ++round) {
    const int64_t heads = 1 + static_cast<int64_t>(random() % 40);
    const int64_t pages = heads * (3 + static_cast<int64_t>(random() % 20));
    Plan plan = PlanOf("1B");
    plan.keep.bytes = static_cast<uint64_t>(pages) * 1000;
    const int64_t each = EntriesPerHead(plan, 1 << 20, heads, 0, {1000}, true);
    EXPECT_GE(each, 132);
    // The worst: all heads but one with one entry in their last page.
    int64_t left = each * heads, taken = 0;
    for (int64_t h = 0; h + 1 < heads; ++h) {
      const int64_t n = 129 + 64 * static_cast<int64_t>(random() % 3);
      taken += Pages(std::min(n, left));
      left -= std::min(n, left);
    }
    EXPECT_LE(taken + Pages(left), pages) << heads << " heads, " << each << " each";
    // One more entry a head would not surely fit.
    if (each > 132) {
      EXPECT_GT((each + 1) * heads + 63 * heads, (pages + 1) * 64 - 1);
    }
  }
}

TEST(CheckPlan, RefusesWhatMakesNoSense) {
  const auto refused = [](const Plan& plan, const char* words) {
    ExpectError(ErrorCode::kInvalidArgument, words, [&] { CheckPlan(plan); });
  };
  Plan plan;
  EXPECT_NO_THROW(CheckPlan(plan));
  plan.window = 0;
  refused(plan, "window 0");
  plan = {};
  plan.sinks = -1;
  refused(plan, "sinks -1");
  refused(PlanOf("131"), "132");
  EXPECT_NO_THROW(CheckPlan(PlanOf("132")));
  plan = PlanOf("25%");
  plan.keep.fraction = 1.5;
  refused(plan, "1.5");
  plan.keep.fraction = 1.0;
  EXPECT_NO_THROW(CheckPlan(plan));
}

TEST(CheckPlan, MatchesTauWithItsBudget) {
  const auto refused = [](const Plan& plan, const char* words) {
    ExpectError(ErrorCode::kInvalidArgument, words, [&] { CheckPlan(plan); });
  };
  EXPECT_NO_THROW(CheckPlan(PlanOf("tau=-4")));
  EXPECT_NO_THROW(CheckPlan(PlanOf("tau=-4", "threshold")));
  for (const char* name : {"uniform", "layer", "global", "adaptive"}) {
    EXPECT_NO_THROW(CheckPlan(PlanOf("25%", name)));
    refused(PlanOf("tau=-4", name), "keeping tau=-4 needs the budget threshold");
  }
  for (const char* keep : {"512", "64MiB"}) {
    refused(PlanOf(keep, "threshold"), "or a fraction, but was told to keep");
  }
  for (const char* keep : {"100%", "25%"}) EXPECT_NO_THROW(CheckPlan(PlanOf(keep, "threshold")));
  refused(PlanOf("25%", "fair"), "expected one of auto, uniform");
  Plan plan = PlanOf("tau=1");
  for (const double tau : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    plan.keep.tau = tau;
    refused(plan, "finite");
  }
}

TEST(CheckPlan, FloorsAreAPartOfAShare) {
  Plan plan = PlanOf("25%", "adaptive");
  for (const double floor : {-1.0, 0.0, 0.5, 1.0}) {
    plan.head_floor = floor;
    EXPECT_NO_THROW(CheckPlan(plan));
  }
  for (const double floor : {1.1, std::nan("")}) {
    plan.head_floor = floor;
    ExpectError(ErrorCode::kInvalidArgument, "floor", [&] { CheckPlan(plan); });
  }
}

}  // namespace
}  // namespace pith
