// The ragged KV cache of one session.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/matrix_view.h"
#include "cache/codec.h"
#include "cache/frozen_pages.h"
#include "cache/layout.h"
#include "cache/page_pool.h"

namespace pith {

struct CacheShape {
  int n_layers = 0;
  int n_kv_heads = 0;
  int head_dim = 0;
};

// What is known of the entries of one (layer, KV head), beside their K and V. Order means nothing.
struct HeadEntries {
  int layer = 0;
  int kv_head = 0;
  std::span<const int32_t> positions;  // [n]
  std::span<const float> worth;        // [n]
};

// Every (layer, KV head) has its own number of entries in its own list of pages. A chunk of tokens
// is appended between BeginChunk and EndChunk; evicting moves the last entry into the hole.
class Cache {
 public:
  // `limit_bytes`: most that may be allocated, 0 for no limit.
  Cache(const CacheShape& shape, std::unique_ptr<Codec> key_codec,
        std::unique_ptr<Codec> value_codec, uint64_t limit_bytes);
  ~Cache();
  Cache(Cache&& other) noexcept = default;  // `other` can only be assigned to or destroyed
  Cache& operator=(Cache&& other) noexcept;

  // Makes room for `n_tokens` entries in every head. Throws Error(kMemoryLimit) and changes nothing
  // when that would exceed the limit.
  void BeginChunk(int n_tokens, int32_t first_position);
  // Stores entries first..first+n-1 of the chunk. keys, values [n, head_dim]; worth [n], or empty.
  // Different heads or different entries may be written by different threads.
  void Write(int layer, int kv_head, int first, MatrixView<const float> keys,
             MatrixView<const float> values, std::span<const float> worth);
  // Positions of the chunk's entries. [n_tokens]
  std::span<const int32_t> ChunkPositions(int layer, int kv_head) const;
  // All heads of a layer, the chunk included, for kernels. Valid from BeginChunk to EndChunk.
  std::span<const HeadView> Views(int layer) const;
  void EndChunk();      // what was written stays
  void AbandonChunk();  // as if BeginChunk had not been called

  HeadEntries Entries(int layer, int kv_head) const;
  int64_t n_entries(int layer, int kv_head) const { return Head(layer, kv_head).count; }
  // `indices` of Entries(), descending. The order of the remaining entries changes.
  void Evict(int layer, int kv_head, std::span<const int32_t> indices);
  // Sets what a later judgement found; `worth` [n] of entries first..first+n-1.
  void SetWorth(int layer, int kv_head, int64_t first, std::span<const float> worth);
  // Removes every entry at `position` or later.
  void DropFrom(int32_t position);
  // Gives memory that is no longer used back to the system.
  void Trim();

  // A cache of the same entries. All pages of both are from now on shared and read-only: what one
  // of them changes it copies first, page by page. A shared page is freed when the last cache that
  // has it lets it go. Forks may be used in different threads.
  Cache Fork();
  // Becomes a cache of the given entries, whose pages lie in read-only memory that `owner` keeps.
  // heads: [n_layers * n_kv_heads]. Throws Error(kMemoryLimit) and changes nothing when they exceed
  // the limit.
  struct AdoptedHead {
    std::span<const int32_t> positions;  // [n]
    std::span<const float> worth;        // [n]
    const std::byte* pages = nullptr;    // ceil(n / 64) pages of page_bytes() each, 64-byte aligned
  };
  void Adopt(std::span<const AdoptedHead> heads, std::shared_ptr<const void> owner);
  // Page `index` of a head as it lies in memory. [page_bytes()]
  std::span<const std::byte> Page(int layer, int kv_head, int64_t index) const;
  // The same, with zeros in the slots that hold no entry. page: [page_bytes()]
  void CopyPage(int layer, int kv_head, int64_t index, std::span<std::byte> page) const;
  size_t page_bytes() const { return page_bytes_; }  // K and V of 64 entries

  void SetLimit(uint64_t limit_bytes) { limit_bytes_ = limit_bytes; }

  // The K and V row of an entry, as kernels see them. key, value: [head_dim]
  void Read(int layer, int kv_head, int64_t index, float* key, float* value) const;

  const CacheShape& shape() const { return shape_; }
  uint64_t allocated_bytes() const;  // own and shared pages, positions, worths, page lists
  uint64_t shared_bytes() const;     // of it: shared pages
  uint64_t peak_bytes() const { return peak_bytes_; }
  size_t bytes_per_page() const;  // what another 64 entries of one head take
  int64_t total_entries() const;

 private:
  struct HeadStore {
    std::vector<std::byte*> pages;
    std::vector<uint32_t> owners;    // beside pages: kOwn, or 1 + an index of owners_
    std::vector<int32_t> positions;  // [count + chunk]
    std::vector<float> worth;        // [count + chunk]
    int64_t count = 0;               // without the chunk in flight
  };
  static constexpr uint32_t kOwn = 0;
  // Keeps the memory of pages that are only read here.
  struct Owner {
    std::shared_ptr<FrozenPages> frozen;  // one of these two
    std::shared_ptr<const void> memory;
    uint64_t page_bytes = 0;  // what a page takes there
    int64_t pages = 0;        // of this cache; at 0 the memory is let go and the place is free
  };
  struct SharedPage {
    std::byte* page = nullptr;
    uint32_t owner = kOwn;
  };

  Cache(const CacheShape& shape, std::shared_ptr<const Codec> key_codec,
        std::shared_ptr<const Codec> value_codec, uint64_t limit_bytes);

  int HeadIndex(int layer, int kv_head) const { return layer * shape_.n_kv_heads + kv_head; }
  HeadStore& Head(int layer, int kv_head) { return heads_[HeadIndex(layer, kv_head)]; }
  const HeadStore& Head(int layer, int kv_head) const { return heads_[HeadIndex(layer, kv_head)]; }
  HeadView View(int index) const;
  std::byte* ValuePart(std::byte* page) const { return page + key_bytes_; }
  // Shares the pages of the cache's own pool.
  void Freeze();
  void Evict(HeadStore& head, std::span<const int32_t> indices);
  void Resize(HeadStore& head, int64_t n_entries);
  void FreePages(HeadStore& head, int64_t n_entries) noexcept;
  // True where the next entry goes to a page that others may be reading.
  bool AppendsToShared(const HeadStore& head) const;
  // Puts a copy in the place of page `index`, and returns what was there.
  SharedPage Unshare(HeadStore& head, size_t index);
  void DropShared(SharedPage shared) noexcept;
  uint32_t AddOwner(Owner owner);
  void CountShared(uint32_t owner) noexcept;
  void UndoChunk(size_t n_heads) noexcept;
  void CountMetadata() noexcept;
  void NotePeak();

  CacheShape shape_;
  std::shared_ptr<const Codec> key_codec_;
  std::shared_ptr<const Codec> value_codec_;
  size_t key_bytes_;   // of a page
  size_t page_bytes_;  // of a page, without what the pool adds to fill the system's pages
  uint64_t limit_bytes_;
  PagePool pool_;
  std::vector<Owner> owners_;
  std::vector<HeadStore> heads_;      // [n_layers * n_kv_heads]
  std::vector<HeadView> views_;       // beside heads_, while a chunk is in flight
  std::vector<SharedPage> replaced_;  // beside heads_: what AbandonChunk puts back
  int chunk_tokens_ = 0;
  uint64_t metadata_bytes_ = 0;
  uint64_t shared_bytes_ = 0;
  uint64_t peak_bytes_ = 0;
};

}  // namespace pith
