// Pages of one size, taken from the system in chunks and given back as soon as possible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "cache/page_bits.h"

namespace pith {

// A chunk all of whose pages are in use is made of the system's huge pages, where it has them: a
// scan of the cache then misses few translations, and not a byte more is held.
class PagePool {
 public:
  // `page_bytes` is rounded up to a multiple of 64. Pages lie side by side: what the operating
  // system has of its own pages between two of them is given back when both are free.
  explicit PagePool(size_t page_bytes);
  ~PagePool();
  PagePool(PagePool&& other) noexcept;             // `other` is empty and can be used again
  PagePool& operator=(PagePool&& other) noexcept;  // `other` gets what was here

  // 64-byte aligned, contents undefined. Pages that still hold memory are used first, then the
  // lowest address, so that few chunks stay open. Throws Error(kMemoryLimit) when the system has no
  // more.
  std::byte* Allocate();
  // `page` must come from Allocate. Its memory stays ready for the next Allocate until Trim.
  void Free(std::byte* page) noexcept;
  // Returns the memory of all free pages to the system.
  void Trim() noexcept;

  size_t page_bytes() const { return page_bytes_; }
  uint64_t used_bytes() const { return used_pages_ * page_bytes_; }
  // Held from the system, in its pages: those in use, and free ones that were not trimmed since.
  uint64_t allocated_bytes() const { return held_pages_ * system_page_; }

 private:
  struct Chunk {
    PageBits free;
    PageBits resident;       // pages that hold memory; every used page does
    std::vector<bool> held;  // the system's pages that do
    bool huge = false;       // asked for, since memory was last given back
  };

  size_t chunk_bytes() const { return chunk_pages_ * page_bytes_; }
  std::byte* MapChunk() const;
  void MakeHuge(std::byte* base, Chunk& chunk) const noexcept;

  // Gives back what free pages hold from the system's page `begin` to before `end` of a chunk.
  void Release(std::byte* base, Chunk& chunk, size_t begin, size_t end) noexcept;

  size_t system_page_;
  size_t page_bytes_;
  int chunk_pages_;
  uint64_t used_pages_ = 0;
  uint64_t held_pages_ = 0;             // of the system
  std::map<std::byte*, Chunk> chunks_;  // by base address
  std::map<std::byte*, Chunk*> open_;   // those with a free page
  std::map<std::byte*, Chunk*> idle_;   // those with a free page that holds memory
};

}  // namespace pith
