#include "cache/page_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <utility>

#include "base/fail.h"

namespace pith {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
#ifdef MADV_COLLAPSE
constexpr int kCollapse = MADV_COLLAPSE;
#else
constexpr int kCollapse = 25;  // Linux 6.1; systems that do not know it refuse, which is harmless
#endif

}  // namespace

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
  for (auto& [base, chunk] : chunks_) munmap(base, chunk_bytes());
}

// Begins at a huge page's boundary.
std::byte* PagePool::MapChunk() const {
  const size_t mapped = chunk_bytes() + kHugePage;
  void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    Fail(ErrorCode::kMemoryLimit, "the system has no memory for another {} KB of KV cache",
         chunk_bytes() / 1024);
  }
  auto* const begin = static_cast<std::byte*>(memory);
  const size_t before = -reinterpret_cast<uintptr_t>(begin) % kHugePage;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + chunk_bytes(), kHugePage - before);
  return begin + before;
}

// The system collapses only what holds memory, hence the reading and writing of a byte.
void PagePool::MakeHuge(std::byte* base, Chunk& chunk) const noexcept {
  chunk.huge = true;
  const size_t length = chunk_bytes() / kHugePage * kHugePage;
  for (size_t at = 0; at < length; at += kHugePage) {
    auto* const first = reinterpret_cast<volatile char*>(base + at);
    *first = *first;
  }
  madvise(base, length, kCollapse);
}

std::byte* PagePool::Allocate() {
  if (open_.empty()) {
    auto [chunk, inserted] = chunks_.try_emplace(MapChunk());
    open_.emplace(chunk->first, &chunk->second);
  }
  const auto [base, chunk] = idle_.empty() ? *open_.begin() : *idle_.begin();
  const int index = (idle_.empty() ? chunk->free : chunk->free & chunk->resident).First();
  chunk->free.Remove(index);
  ++used_pages_;
  if (!chunk->resident.Has(index)) ++resident_pages_;
  chunk->resident.Add(index);
  if ((chunk->free & chunk->resident).empty()) idle_.erase(base);
  if (chunk->free.empty()) {
    open_.erase(base);
    if (!chunk->huge) MakeHuge(base, *chunk);
  }
  return base + index * page_bytes_;
}

void PagePool::Free(std::byte* page) noexcept {
  auto entry = std::prev(chunks_.upper_bound(page));
  Chunk& chunk = entry->second;
  if (chunk.free.empty()) open_.emplace(entry->first, &chunk);
  if ((chunk.free & chunk.resident).empty()) idle_.emplace(entry->first, &chunk);
  chunk.free.Add(static_cast<int>(static_cast<size_t>(page - entry->first) / page_bytes_));
  --used_pages_;
}

void PagePool::Trim() noexcept {
  idle_.clear();
  for (auto entry = chunks_.begin(); entry != chunks_.end();) {
    auto& [base, chunk] = *entry;
    const PageBits idle = chunk.free & chunk.resident;
    resident_pages_ -= idle.size();
    if (chunk.free == PageBits::All()) {
      munmap(base, chunk_bytes());
      open_.erase(base);
      entry = chunks_.erase(entry);
      continue;
    }
    for (int begin = idle.First(); begin < kChunkPages;) {
      int end = begin;
      while (end < kChunkPages && idle.Has(end)) ++end;
      madvise(base + begin * page_bytes_, (end - begin) * page_bytes_, MADV_DONTNEED);
      chunk.huge = false;
      for (begin = end; begin < kChunkPages && !idle.Has(begin);) ++begin;
    }
    chunk.resident = chunk.resident - idle;
    ++entry;
  }
}

}  // namespace pith
