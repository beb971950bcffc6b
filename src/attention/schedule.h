// How one layer's attention is cut into parts of equal work.
#pragma once

#include <cstdint>
#include <span>

#include "cache/layout.h"

namespace pith {

// A task is one KV head x one block of queries. Tasks lie on a line, query blocks with the most
// entries first, each as long as the work it is: blocks of 32 visible entries x queries. The line
// is cut into equal parts, at block boundaries, so that parts take equal time however ragged the
// heads are (Flash-Decoding's split over entries, over all heads at once). Everything is a function
// of its arguments: threads compute the same cuts without talking.
struct Task {
  int head = 0;  // of those given: the KV heads of one sequence after another
  int token_begin = 0;
  int n_tokens = 0;
  int64_t n_entries = 0;  // seen by the last query of the block
  int64_t n_blocks = 0;   // of entries; at least 1, so that a task of no entries is somebody's
};

// A place on the line: `block` of `task`, always below its n_blocks, or {n_tasks, 0} for the end.
struct Cut {
  int task = 0;
  int64_t block = 0;
  bool operator==(const Cut&) const = default;
};

class Schedule {
 public:
  // n_tokens queries a head, in blocks of at most `query_block`.
  Schedule(std::span<const HeadView> heads, int n_tokens, int query_block);

  int n_tasks() const { return n_tasks_; }
  Task task(int index) const;

  // Fills cuts [n_parts + 1]; part p is [cuts[p], cuts[p + 1]), possibly empty.
  void MakeCuts(std::span<Cut> cuts) const;

 private:
  std::span<const HeadView> heads_;
  int n_tokens_;
  int query_block_;
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
