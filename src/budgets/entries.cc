#include <algorithm>
#include <cmath>
#include <limits>

#include "base/fail.h"
#include "budgets/budget.h"

namespace pith {

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
}

int64_t EntriesPerHead(const Plan& plan, int64_t n_read, int64_t compressed_heads,
                       int64_t whole_heads, size_t bytes_per_page) {
  const int64_t protected_entries = int64_t{plan.sinks} + plan.window;
  if (compressed_heads == 0) return std::numeric_limits<int64_t>::max();
  switch (plan.keep.kind) {
    case Keep::Kind::kAll:
      return std::numeric_limits<int64_t>::max();
    case Keep::Kind::kEntries:
      return plan.keep.entries;
    case Keep::Kind::kFraction:
      return std::max(
          protected_entries,
          static_cast<int64_t>(std::ceil(plan.keep.fraction * static_cast<double>(n_read))));
    case Keep::Kind::kBytes:
      break;
  }
  const int64_t whole_pages = whole_heads * ((n_read + kPageEntries - 1) / kPageEntries);
  const int64_t pages = static_cast<int64_t>(plan.keep.bytes / bytes_per_page) - whole_pages;
  const int64_t entries = std::max<int64_t>(0, pages) / compressed_heads * kPageEntries;
  if (entries < std::min(protected_entries, n_read)) {
    const int64_t least_pages =
        whole_pages + compressed_heads * ((protected_entries + kPageEntries - 1) / kPageEntries);
    Fail(
        ErrorCode::kInvalidArgument,
        "{} bytes of KV cache are too few for sinks + window in every head; that takes at least {}",
        plan.keep.bytes, least_pages * static_cast<int64_t>(bytes_per_page));
  }
  return std::max(entries, protected_entries);
}

}  // namespace pith
