#include "cache/page_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <utility>

#include "base/fail.h"

namespace pith {

PagePool::PagePool(size_t page_bytes) {
  const size_t system_page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  page_bytes_ = (page_bytes + system_page - 1) / system_page * system_page;
}

PagePool::PagePool(PagePool&& other) noexcept
    : page_bytes_(other.page_bytes_),
      used_pages_(std::exchange(other.used_pages_, 0)),
      resident_pages_(std::exchange(other.resident_pages_, 0)),
      chunks_(std::exchange(other.chunks_, {})),
      open_(std::exchange(other.open_, {})),
      idle_(std::exchange(other.idle_, {})) {}

PagePool& PagePool::operator=(PagePool&& other) noexcept {
  std::swap(page_bytes_, other.page_bytes_);
  std::swap(used_pages_, other.used_pages_);
  std::swap(resident_pages_, other.resident_pages_);
  std::swap(chunks_, other.chunks_);
  std::swap(open_, other.open_);
  std::swap(idle_, other.idle_);
  return *this;
}

PagePool::~PagePool() {
  for (auto& [base, chunk] : chunks_) munmap(base, kChunkPages * page_bytes_);
}

std::byte* PagePool::Allocate() {
  if (open_.empty()) {
    void* memory = mmap(nullptr, kChunkPages * page_bytes_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      Fail(ErrorCode::kMemoryLimit, "the system has no memory for another {} KB of KV cache",
           kChunkPages * page_bytes_ / 1024);
    }
    auto [chunk, inserted] = chunks_.try_emplace(static_cast<std::byte*>(memory));
    open_.emplace(chunk->first, &chunk->second);
  }
  const auto [base, chunk] = idle_.empty() ? *open_.begin() : *idle_.begin();
  const int index = std::countr_zero(idle_.empty() ? chunk->free : chunk->free & chunk->resident);
  const uint64_t bit = uint64_t{1} << index;
  chunk->free &= ~bit;
  ++used_pages_;
  if (!(chunk->resident & bit)) ++resident_pages_;
  chunk->resident |= bit;
  if (chunk->free == 0) open_.erase(base);
  if ((chunk->free & chunk->resident) == 0) idle_.erase(base);
  return base + index * page_bytes_;
}

void PagePool::Free(std::byte* page) noexcept {
  auto entry = std::prev(chunks_.upper_bound(page));
  Chunk& chunk = entry->second;
  if (chunk.free == 0) open_.emplace(entry->first, &chunk);
  if ((chunk.free & chunk.resident) == 0) idle_.emplace(entry->first, &chunk);
  chunk.free |= uint64_t{1} << (static_cast<size_t>(page - entry->first) / page_bytes_);
  --used_pages_;
}

void PagePool::Trim() noexcept {
  idle_.clear();
  for (auto entry = chunks_.begin(); entry != chunks_.end();) {
    auto& [base, chunk] = *entry;
    const uint64_t idle = chunk.free & chunk.resident;
    resident_pages_ -= std::popcount(idle);
    if (chunk.free == ~uint64_t{0}) {
      munmap(base, kChunkPages * page_bytes_);
      open_.erase(base);
      entry = chunks_.erase(entry);
      continue;
    }
    for (uint64_t left = idle; left != 0;) {
      const int begin = std::countr_zero(left);
      const int length = std::countr_one(left >> begin);
      madvise(base + begin * page_bytes_, length * page_bytes_, MADV_DONTNEED);
      left = begin + length == 64 ? 0 : left >> (begin + length) << (begin + length);
    }
    chunk.resident &= ~idle;
    ++entry;
  }
}

}  // namespace pith
