#include "cache/frozen_pages.h"

#include <utility>

namespace pith {

void FrozenPages::Keep(std::byte* page) {
  const std::lock_guard lock(mutex_);
  ++readers_[page];
}

void FrozenPages::LetGo(std::byte* page) noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = readers_.find(page);
  if (--found->second > 0) return;
  readers_.erase(found);
  pool_.Free(page);
}

void FrozenPages::TakePool(PagePool&& pool) noexcept {
  const std::lock_guard lock(mutex_);
  pool_ = std::move(pool);
}

void FrozenPages::Trim() noexcept {
  const std::lock_guard lock(mutex_);
  pool_.Trim();
}

uint64_t FrozenPages::allocated_bytes() const {
  const std::lock_guard lock(mutex_);
  return pool_.allocated_bytes();
}

}  // namespace pith
