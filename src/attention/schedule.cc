#include "attention/schedule.h"

#include <algorithm>

namespace pith {

Schedule::Schedule(std::span<const HeadView> heads, int n_tokens, int query_block)
    : heads_(heads),
      n_tokens_(n_tokens),
      query_block_(query_block),
      n_query_blocks_((n_tokens + query_block - 1) / query_block),
      n_tasks_(n_query_blocks_ * static_cast<int>(heads.size())) {}

Task Schedule::task(int index) const {
  // All heads of one query block stand together, the last query block first: of causal tasks the
  // longest are begun first.
  const int n_heads = static_cast<int>(heads_.size());
  const int query_block = n_query_blocks_ - 1 - index / n_heads;
  Task task;
  task.head = index % n_heads;
  task.token_begin = query_block * query_block_;
  task.n_tokens = std::min(query_block_, n_tokens_ - task.token_begin);
  const HeadView& head = heads_[task.head];
  task.n_entries = head.n_entries();
  if (head.n_chunk > 0) task.n_entries -= n_tokens_ - task.token_begin - task.n_tokens;
  task.n_entries = std::max<int64_t>(task.n_entries, 0);
  task.n_blocks = std::max<int64_t>((task.n_entries + kBlockEntries - 1) / kBlockEntries, 1);
  return task;
}

void Schedule::MakeCuts(std::span<Cut> cuts) const {
  int64_t total = 0;
  for (int i = 0; i < n_tasks_; ++i) total += task(i).n_blocks * task(i).n_tokens;

  const auto n_parts = static_cast<int64_t>(cuts.size()) - 1;
  int64_t begin = 0;  // of the task on the line
  int64_t part = 0;
  for (int i = 0; i < n_tasks_; ++i) {
    const Task t = task(i);
    const int64_t length = t.n_blocks * t.n_tokens;
    for (; part < n_parts; ++part) {
      const int64_t place = total * part / n_parts - begin;
      if (place >= length) break;
      const int64_t block = (place + t.n_tokens / 2) / t.n_tokens;
      cuts[part] = block < t.n_blocks ? Cut{i, block} : Cut{i + 1, 0};
    }
    begin += length;
  }
  for (; part <= n_parts; ++part) cuts[part] = {n_tasks_, 0};
}

}  // namespace pith
