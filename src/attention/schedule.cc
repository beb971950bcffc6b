#include "attention/schedule.h"

#include <algorithm>

namespace pith {

Schedule::Schedule(std::span<const HeadView> heads, int n_tokens, int query_block, bool by_bytes)
    : heads_(heads),
      n_tokens_(n_tokens),
      query_block_(query_block),
      by_bytes_(by_bytes),
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
  for (int t = 0; t < head.n_tiers; ++t) {
    int64_t n = head.tiers[t].n_entries;
    if (t == 0 && head.n_chunk > 0) n -= n_tokens_ - task.token_begin - task.n_tokens;
    task.n_entries[t] = std::max<int64_t>(n, 0);
    task.n_blocks[t] = (task.n_entries[t] + kBlockEntries - 1) / kBlockEntries;
  }
  if (task.all_blocks() == 0) task.n_blocks[0] = 1;
  return task;
}

int64_t Schedule::BlockWork(const Task& task, int tier) const {
  const auto bytes = static_cast<int64_t>(heads_[task.head].tiers[tier].page_bytes);
  return by_bytes_ ? task.n_tokens * bytes : task.n_tokens;
}

void Schedule::MakeCuts(std::span<Cut> cuts) const {
  int64_t total = 0;
  for (int i = 0; i < n_tasks_; ++i) {
    const Task t = task(i);
    for (int tier = 0; tier < kMaxTiers; ++tier) total += t.n_blocks[tier] * BlockWork(t, tier);
  }

  const auto n_parts = static_cast<int64_t>(cuts.size()) - 1;
  int64_t begin = 0;  // of the tier of the task on the line
  int64_t part = 0;
  for (int i = 0; i < n_tasks_; ++i) {
    const Task t = task(i);
    const int64_t all_blocks = t.all_blocks();
    int64_t first_block = 0;  // of the tier
    for (int tier = 0; tier < kMaxTiers; ++tier) {
      const int64_t work = BlockWork(t, tier);
      const int64_t length = t.n_blocks[tier] * work;
      for (; part < n_parts; ++part) {
        const int64_t place = total * part / n_parts - begin;
        if (place >= length) break;
        const int64_t block = first_block + (place + work / 2) / work;
        cuts[part] = block < all_blocks ? Cut{i, block} : Cut{i + 1, 0};
      }
      begin += length;
      first_block += t.n_blocks[tier];
    }
  }
  for (; part <= n_parts; ++part) cuts[part] = {n_tasks_, 0};
}

}  // namespace pith
