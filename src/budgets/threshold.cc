#include "budgets/candidates.h"

namespace pith {

void ThresholdBudget::Allocate(std::span<const HeadEntries> heads, const BudgetLimits& limits,
                               Verdicts& out) const {
  out.assign(heads.size(), {});
  for (size_t h = 0; h < heads.size(); ++h) {
    for (size_t i = heads[h].positions.size(); i-- > 0;) {
      const bool stays = heads[h].worth[i] >= limits.tau ||
                         heads[h].positions[i] < limits.judged_begin ||
                         IsProtected(heads[h], i, limits);
      if (!stays) out[h].push_back(static_cast<int32_t>(i));
    }
  }
}

}  // namespace pith
