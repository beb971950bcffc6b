#include "cache/page_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/fail.h"
#include "cache/layout.h"

namespace pith {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr int kLeastChunkPages = 128;
#ifdef MADV_COLLAPSE
constexpr int kCollapse = MADV_COLLAPSE;
#else
constexpr int kCollapse = 25;  // Linux 6.1; systems that do not know it refuse, which is harmless
#endif

}  // namespace

// Chunks are of at least a huge page, or of as many pages as a set holds.
PagePool::PagePool(size_t page_bytes)
    : system_page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))),
      page_bytes_((page_bytes + kPageAlignment - 1) / kPageAlignment * kPageAlignment),
      chunk_pages_(kLeastChunkPages) {
  // Steps of 64 pages of a multiple of 64 bytes are whole pages of the system.
  while (chunk_bytes() < kHugePage && chunk_pages_ < PageBits::kSize) chunk_pages_ += 64;
}

PagePool::PagePool(PagePool&& other) noexcept
    : system_page_(other.system_page_),
      page_bytes_(other.page_bytes_),
      chunk_pages_(other.chunk_pages_),
      used_pages_(std::exchange(other.used_pages_, 0)),
      held_pages_(std::exchange(other.held_pages_, 0)),
      chunks_(std::exchange(other.chunks_, {})),
      open_(std::exchange(other.open_, {})),
      idle_(std::exchange(other.idle_, {})) {}

PagePool& PagePool::operator=(PagePool&& other) noexcept {
  std::swap(page_bytes_, other.page_bytes_);
  std::swap(chunk_pages_, other.chunk_pages_);
  std::swap(used_pages_, other.used_pages_);
  std::swap(held_pages_, other.held_pages_);
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
    auto [entry, inserted] = chunks_.try_emplace(MapChunk());
    entry->second.free = PageBits::First(chunk_pages_);
    entry->second.held.resize(chunk_bytes() / system_page_);
    open_.emplace(entry->first, &entry->second);
  }
  const auto [base, chunk] = idle_.empty() ? *open_.begin() : *idle_.begin();
  const int index = (idle_.empty() ? chunk->free : chunk->free & chunk->resident).lowest();
  chunk->free.Remove(index);
  ++used_pages_;
  chunk->resident.Add(index);
  const size_t end = (index + 1) * page_bytes_;
  for (size_t i = index * page_bytes_ / system_page_; i * system_page_ < end; ++i) {
    if (chunk->held[i]) continue;
    chunk->held[i] = true;
    ++held_pages_;
  }
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

void PagePool::Release(std::byte* base, Chunk& chunk, size_t begin, size_t end) noexcept {
  const auto from = chunk.held.begin() + static_cast<ptrdiff_t>(begin);
  const auto to = chunk.held.begin() + static_cast<ptrdiff_t>(end);
  const auto n_held = std::count(from, to, true);
  if (n_held == 0) return;
  madvise(base + begin * system_page_, (end - begin) * system_page_, MADV_DONTNEED);
  std::fill(from, to, false);
  held_pages_ -= static_cast<uint64_t>(n_held);
  chunk.huge = false;
}

void PagePool::Trim() noexcept {
  idle_.clear();
  for (auto entry = chunks_.begin(); entry != chunks_.end();) {
    auto& [base, chunk] = *entry;
    if (chunk.free.size() == chunk_pages_) {
      held_pages_ -= static_cast<uint64_t>(std::count(chunk.held.begin(), chunk.held.end(), true));
      munmap(base, chunk_bytes());
      open_.erase(base);
      entry = chunks_.erase(entry);
      continue;
    }
    if (!(chunk.free & chunk.resident).empty()) {
      for (int begin = 0; begin < chunk_pages_; ++begin) {
        if (!chunk.free.Has(begin)) continue;
        int end = begin;
        while (end < chunk_pages_ && chunk.free.Has(end)) ++end;
        const size_t first = (begin * page_bytes_ + system_page_ - 1) / system_page_;
        const size_t last = end * page_bytes_ / system_page_;
        if (first < last) Release(base, chunk, first, last);
        begin = end;
      }
      chunk.resident = chunk.resident - chunk.free;
    }
    ++entry;
  }
}

}  // namespace pith
