// Pages that several caches read and none writes.
#pragma once

#include <cstddef>
#include <mutex>
#include <unordered_map>

#include "cache/page_pool.h"

namespace pith {

// A page is freed when the last of its readers lets it go. Safe to call from several threads.
class FrozenPages {
 public:
  explicit FrozenPages(size_t page_bytes) : pool_(page_bytes) {}

  // One more reader of `page`. Throws nothing for a page that has one already.
  void Keep(std::byte* page);
  void LetGo(std::byte* page) noexcept;
  // Takes over the pool that the pages kept so far come from; once.
  void TakePool(PagePool&& pool) noexcept;
  // Returns the memory of pages without readers to the system.
  void Trim() noexcept;
  uint64_t allocated_bytes() const;

 private:
  mutable std::mutex mutex_;
  PagePool pool_;
  std::unordered_map<std::byte*, int> readers_;
};

}  // namespace pith
