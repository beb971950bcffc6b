// What the machine gives to a loop that does nothing but read: the measure of every kernel bound by
// memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cache/page_pool.h"
#include "team.h"

namespace pith {

// Memory to read, from the same allocator as the cache's pages, and as huge as theirs.
class ReadMemory {
 public:
  // `bytes` are rounded up to whole pieces of kPieceBytes for each thread.
  ReadMemory(int n_threads, size_t bytes);

  // Every thread reads the first `bytes_per_thread`, a multiple of 4 KiB, of its share `times`
  // times. Returns bytes a second of all together.
  double Read(Team& team, size_t bytes_per_thread, int times = 1) const;
  // All of it, once.
  double Read(Team& team) const { return Read(team, pieces_.front().size() * kPieceBytes); }

  static constexpr size_t kPieceBytes = size_t{2} << 20;

 private:
  PagePool pool_;
  std::vector<std::vector<const std::byte*>> pieces_;  // [thread]
};

}  // namespace pith
