// What every budget leaves alone.
#pragma once

#include <cstddef>
#include <limits>

#include "budgets/budget.h"

namespace pith {

inline bool IsProtected(const HeadEntries& head, size_t i, const BudgetLimits& limits) {
  return head.positions[i] < limits.sinks || head.positions[i] >= limits.window_begin ||
         head.worth[i] == std::numeric_limits<float>::infinity();
}

}  // namespace pith
