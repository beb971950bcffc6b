// How one layer's attention is cut into parts of equal work.
#pragma once

#include <array>
#include <cstdint>
#include <numeric>
#include <span>

#include "cache/layout.h"

namespace pith {

// A task is one KV head x one block of queries. Tasks lie on a line, query blocks with the most
// entries first, each as long as the work it is: blocks of 32 visible entries x queries, and where
// bytes are what takes time, x bytes of an entry. The line
// is cut into equal parts, at block boundaries, so that parts take equal time however ragged the
// heads are (Flash-Decoding's split over entries, over all heads at once). Everything is a function
// of its arguments: threads compute the same cuts without talking.
struct Task {
  int head = 0;  // of those given: the KV heads of one sequence after another
  int token_begin = 0;
  int n_tokens = 0;
  // Of each tier: entries seen by the last query of the block, and blocks of them. There is at
  // least one block in all, so that a task of no entries is somebody's.
  std::array<int64_t, kMaxTiers> n_entries = {};
  std::array<int64_t, kMaxTiers> n_blocks = {};

  int64_t all_blocks() const {
    return std::accumulate(n_blocks.begin(), n_blocks.end(), int64_t{0});
  }
};

// A place on the line: `block` of `task`, tier after tier, always below all of its blocks, or
// {n_tasks, 0} for the end.
struct Cut {
  int task = 0;
  int64_t block = 0;
  bool operator==(const Cut&) const = default;
};

class Schedule {
 public:
  // n_tokens queries a head, in blocks of at most `query_block`. `by_bytes`: few queries, so that
  // work is what is read.
  Schedule(std::span<const HeadView> heads, int n_tokens, int query_block, bool by_bytes);

  int n_tasks() const { return n_tasks_; }
  Task task(int index) const;

  // Fills cuts [n_parts + 1]; part p is [cuts[p], cuts[p + 1]), possibly empty.
  void MakeCuts(std::span<Cut> cuts) const;

 private:
  // Work of one block of a tier of the task, all queries together.
  int64_t BlockWork(const Task& task, int tier) const;

  std::span<const HeadView> heads_;
  int n_tokens_;
  int query_block_;
  bool by_bytes_;
  int n_query_blocks_;
  int n_tasks_;
};

// The blocks [begin, end) of a task that a part between two cuts covers; empty if begin >= end.
struct BlockRange {
  int64_t begin = 0;
  int64_t end = 0;
};
inline BlockRange PartOfTask(const Cut& begin, const Cut& end, int task, int64_t n_blocks) {
  if (task < begin.task || task > end.task) return {};
  return {task == begin.task ? begin.block : 0, task == end.task ? end.block : n_blocks};
}

}  // namespace pith
