#include <algorithm>
#include <cmath>
#include <limits>

#include "base/fail.h"
#include "budgets/budget.h"

namespace pith {

namespace {

void CheckTiers(const Plan& plan) {
  for (const Tier& tier : plan.tiers) {
    if (!(tier.share > 0 && tier.share <= 1)) {
      Fail(ErrorCode::kInvalidArgument,
           "a tier with a share of {} makes no sense; use above 0 to 1", tier.share);
    }
  }
  const Keep keep = KeepOf(plan.tiers);
  if (plan.key_codec != "f16" || plan.value_codec != "f16" || plan.keep.kind != keep.kind ||
      std::fabs(plan.keep.fraction - keep.fraction) > 1e-9) {
    Fail(
        ErrorCode::kInvalidArgument,
        "the tiers {} keep {}, beside which nothing else is kept and no other codecs are used, but "
        "the plan says to keep {} as {}/{}",
        TiersToString(plan.tiers), keep.ToString(), plan.keep.ToString(), plan.key_codec,
        plan.value_codec);
  }
}

}  // namespace

void CheckPlan(const Plan& plan) {
  const int64_t protected_entries = int64_t{plan.sinks} + plan.window;
  if (plan.window < 1 || plan.sinks < 0 || plan.skip_layers < 0) {
    Fail(ErrorCode::kInvalidArgument,
         "window {}, sinks {} and skip-layers {} make no sense; window must be at least 1, the "
         "others at least 0",
         plan.window, plan.sinks, plan.skip_layers);
  }
  if (plan.keep.kind == Keep::Kind::kEntries && plan.keep.entries < protected_entries) {
    Fail(ErrorCode::kInvalidArgument,
         "keeping {} entries a head is fewer than sinks + window ({} + {} = {})", plan.keep.entries,
         plan.sinks, plan.window, protected_entries);
  }
  if (plan.keep.kind == Keep::Kind::kFraction &&
      !(plan.keep.fraction > 0 && plan.keep.fraction <= 1)) {
    Fail(ErrorCode::kInvalidArgument,
         "keeping a fraction of {} makes no sense; use above 0 % to 100 %", plan.keep.fraction);
  }
  const bool has_tau = plan.keep.kind == Keep::Kind::kThreshold;
  if (has_tau && !std::isfinite(plan.keep.tau)) {
    Fail(ErrorCode::kInvalidArgument, "a tau of {} makes no sense; use a finite number",
         plan.keep.tau);
  }
  MakeBudget(plan, false);  // throws for an unknown name
  if (has_tau && plan.budget != "auto" && plan.budget != "threshold") {
    Fail(ErrorCode::kInvalidArgument,
         "keeping {} needs the budget threshold (or auto), but the budget is {}, which needs a "
         "number of entries",
         plan.keep.ToString(), plan.budget);
  }
  const bool counts =
      plan.keep.kind == Keep::Kind::kEntries || plan.keep.kind == Keep::Kind::kBytes;
  if (counts && plan.budget == "threshold") {
    Fail(ErrorCode::kInvalidArgument,
         "the budget threshold keeps what is worth at least a tau such as tau=-4, or a fraction, "
         "but was told to keep {}",
         plan.keep.ToString());
  }
  if (!plan.tiers.empty()) CheckTiers(plan);
  if (!(plan.head_floor <= 1)) {
    Fail(ErrorCode::kInvalidArgument,
         "a floor of {} of an even share for every head makes no sense; use 0 to 1",
         plan.head_floor);
  }
}

int64_t EntriesOfShare(const Plan& plan, double share, int64_t n_read) {
  return std::max(int64_t{plan.sinks} + plan.window,
                  static_cast<int64_t>(std::ceil(share * static_cast<double>(n_read))));
}

int64_t EntriesPerHead(const Plan& plan, int64_t n_read, int64_t compressed_heads,
                       int64_t whole_heads, const PageCosts& costs, bool ragged) {
  const int64_t protected_entries = int64_t{plan.sinks} + plan.window;
  if (compressed_heads == 0) return std::numeric_limits<int64_t>::max();
  switch (plan.keep.kind) {
    case Keep::Kind::kAll:
    case Keep::Kind::kThreshold:
      return std::numeric_limits<int64_t>::max();
    case Keep::Kind::kEntries:
      return plan.keep.entries;
    case Keep::Kind::kFraction:
      return EntriesOfShare(plan, plan.keep.fraction, n_read);
    case Keep::Kind::kBytes:
      break;
  }
  const auto pages_for = [](int64_t n) { return (n + kPageEntries - 1) / kPageEntries; };
  // Sinks and window of every head are paid for first where they have pages of their own.
  const int64_t apart = costs.coded > 0 ? std::min(protected_entries, n_read) : 0;
  const auto exact_bytes =
      (compressed_heads + whole_heads) * pages_for(apart) * static_cast<int64_t>(costs.exact);
  const auto page_bytes = static_cast<int64_t>(costs.coded > 0 ? costs.coded : costs.exact);
  const int64_t whole_pages = whole_heads * pages_for(n_read - apart);
  const auto bytes = static_cast<int64_t>(plan.keep.bytes);
  const int64_t pages = (bytes - exact_bytes) / page_bytes - whole_pages;
  const int64_t even = apart + std::max<int64_t>(0, pages) / compressed_heads * kPageEntries;
  if (bytes < exact_bytes || pages < 0 || even < std::min(protected_entries, n_read)) {
    Fail(
        ErrorCode::kInvalidArgument,
        "{} bytes of KV cache are too few for sinks + window in every head; that takes at least {}",
        plan.keep.bytes,
        exact_bytes +
            (whole_pages + compressed_heads * pages_for(protected_entries - apart)) * page_bytes);
  }
  if (!ragged) return std::max(even, protected_entries);
  // n entries in H heads take at most (n + 63 H) / 64 pages.
  const int64_t sure = (pages + 1) * kPageEntries - 1 - compressed_heads * (kPageEntries - 1);
  return std::max(apart + sure / compressed_heads, protected_entries);
}

}  // namespace pith
