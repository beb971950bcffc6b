// Turns the worths of all heads into what is evicted.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "cache/cache.h"
#include "pith/plan.h"

namespace pith {

// What no budget may evict, and how much may stay.
struct BudgetLimits {
  int32_t sinks = 0;         // entries at positions below this stay
  int32_t window_begin = 0;  // entries at this position and later stay
  int64_t total = 0;         // entries that may stay over all heads given, >= 0
  double head_floor = -1;    // Plan::head_floor; negative: the budget's own
  double tau = 0;            // of ThresholdBudget, which has no total; may be infinite
  // Of ThresholdBudget: entries before this position were judged by an earlier tau, and stay.
  int32_t judged_begin = std::numeric_limits<int32_t>::min();
};

// Entries to evict, per head given, as indices in descending order.
using Verdicts = std::vector<std::vector<int32_t>>;

// Sinks, the window and entries of worth +infinity are protected: they stay and count. NaN is worth
// less than any number. The verdicts depend on positions and worths alone, not on the order of
// entries. Safe to call from many threads.
class Budget {
 public:
  virtual ~Budget() = default;
  virtual std::string_view name() const = 0;
  // Heads may keep different numbers of entries.
  virtual bool ragged() const { return true; }
  // heads: by layer, then by KV head; positions of one head differ.
  virtual void Allocate(std::span<const HeadEntries> heads, const BudgetLimits& limits,
                        Verdicts& out) const = 0;
};

// Who takes from one total.
enum class Sharing { kNone, kLayer, kAll };

// Every head is given an even share of the total, the first heads one more each where it does not
// come out even. The shares of a group of heads that share are one total, and the best entries of
// the group stay: exactly as many as its total, if the group has so many. Groups do not lend to
// each other. Where a group's protected entries alone exceed its total, it keeps them and nothing
// else, and the other groups keep their totals. Of its own share each head keeps at least the part
// `head_floor`, its best entries, protected ones included, as long as the protected of the group
// leave room; where they do not, the least worthy of the entries so guaranteed go as well. Equal
// worths: the older entry goes first, then that of the lower layer and head. Takes O(n) time and 8
// bytes per entry of a group.
class ShareBudget : public Budget {
 public:
  ShareBudget(std::string_view name, Sharing sharing, double head_floor)
      : name_(name), sharing_(sharing), head_floor_(head_floor) {}
  std::string_view name() const override { return name_; }
  bool ragged() const override { return sharing_ != Sharing::kNone; }
  void Allocate(std::span<const HeadEntries> heads, const BudgetLimits& limits,
                Verdicts& out) const override;

 private:
  std::string_view name_;
  Sharing sharing_;
  double head_floor_;  // [0, 1]
};

// Keeps what is worth at least tau (KVzap, arXiv 2601.07891), however much that is.
class ThresholdBudget : public Budget {
 public:
  std::string_view name() const override { return "threshold"; }
  void Allocate(std::span<const HeadEntries> heads, const BudgetLimits& limits,
                Verdicts& out) const override;
};

// The budget that a plan names; `comparable`: Scorer::comparable_across_heads, which "auto" asks.
// Throws Error(kInvalidArgument) for an unknown name.
std::unique_ptr<Budget> MakeBudget(const Plan& plan, bool comparable);

// Bytes of 64 more entries of a head: of exact ones, and of those that have left the window, where
// these are stored in pages of their own.
struct PageCosts {
  size_t exact = 0;
  size_t coded = 0;  // 0: all are exact
};

// Entries that one compressed head may keep after `n_read` tokens, sinks and window included, on
// average over the heads that share; a fraction never gives fewer than those. `whole_heads` are not
// compressed and count against a budget in bytes. `ragged`: bytes also pay for a last page of each
// head that holds one entry, the worst that Budget::ragged() can do. The largest int64_t where
// there is no limit. Throws Error(kInvalidArgument) when bytes do not suffice for sinks and window.
int64_t EntriesPerHead(const Plan& plan, int64_t n_read, int64_t compressed_heads,
                       int64_t whole_heads, const PageCosts& costs, bool ragged);

// Of a share of what was read, (0, 1]: never fewer than sinks and window.
int64_t EntriesOfShare(const Plan& plan, double share, int64_t n_read);

// Throws Error(kInvalidArgument) for a plan that makes no sense on any model.
void CheckPlan(const Plan& plan);

}  // namespace pith
