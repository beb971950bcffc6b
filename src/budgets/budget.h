// Turns the worths of all heads into what is evicted.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cache/cache.h"
#include "pith/plan.h"

namespace pith {

// What no budget may evict, and how much may stay.
struct BudgetLimits {
  int32_t sinks = 0;         // entries at positions below this stay
  int32_t window_begin = 0;  // entries at this position and later stay
  int64_t total = 0;         // entries that may stay over all heads given
  double head_floor = 0;     // part of an even share that each head keeps, [0, 1]
  double tau = 0;            // of ThresholdBudget
};

// Entries to evict, per head given, as indices in descending order.
using Verdicts = std::vector<std::vector<int32_t>>;

class Budget {
 public:
  virtual ~Budget() = default;
  // Sinks, the window and entries of infinite worth stay in any case. Apart from those the entries
  // that stay never exceed limits.total, and equal it where there were enough. Equal worths: the
  // older entry goes first, then that of the lower layer and head.
  virtual void Allocate(std::span<const HeadEntries> heads, const BudgetLimits& limits,
                        Verdicts& out) const = 0;
};

// The same number of entries in every head.
class UniformBudget : public Budget {
 public:
  void Allocate(std::span<const HeadEntries> heads, const BudgetLimits& limits,
                Verdicts& out) const override;
};

// Entries that one compressed head may keep after `n_read` tokens, sinks and window included; a
// fraction never gives fewer than those. `whole_heads` are not compressed and count against a
// budget in bytes. Throws Error(kInvalidArgument) when bytes do not suffice for sinks and window.
int64_t EntriesPerHead(const Plan& plan, int64_t n_read, int64_t compressed_heads,
                       int64_t whole_heads, size_t bytes_per_page);

// Throws Error(kInvalidArgument) for a plan that makes no sense on any model.
void CheckPlan(const Plan& plan);

}  // namespace pith
