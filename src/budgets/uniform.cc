#include <algorithm>
#include <functional>

#include "budgets/budget.h"

namespace pith {

void UniformBudget::Allocate(std::span<const HeadEntries> heads, const BudgetLimits& limits,
                             Verdicts& out) const {
  out.assign(heads.size(), {});
  if (heads.empty()) return;
  const int64_t per_head = limits.total / static_cast<int64_t>(heads.size());
  int64_t left_over = limits.total % static_cast<int64_t>(heads.size());
  for (size_t h = 0; h < heads.size(); ++h) {
    const std::span<const int32_t> positions = heads[h].positions;
    const std::span<const float> worth = heads[h].worth;
    const int64_t allowed = per_head + (left_over-- > 0 ? 1 : 0);
    const int64_t excess = static_cast<int64_t>(positions.size()) - allowed;
    if (excess <= 0) continue;

    std::vector<int32_t>& candidates = out[h];
    for (int32_t i = 0; i < static_cast<int32_t>(positions.size()); ++i) {
      if (positions[i] >= limits.sinks && positions[i] < limits.window_begin)
        candidates.push_back(i);
    }
    const size_t n = std::min<size_t>(candidates.size(), static_cast<size_t>(excess));
    const auto goes_first = [&](int32_t a, int32_t b) {
      return worth[a] != worth[b] ? worth[a] < worth[b] : positions[a] < positions[b];
    };
    std::nth_element(candidates.begin(), candidates.begin() + n, candidates.end(), goes_first);
    candidates.resize(n);
    std::sort(candidates.begin(), candidates.end(), std::greater<>());
  }
}

}  // namespace pith
