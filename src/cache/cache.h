// The ragged KV cache of one session.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
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

// What is known of the entries of one (layer, KV head), beside their K and V: those of the last
// tier first, those of tier 0 last. Within a tier order means nothing.
struct HeadEntries {
  int layer = 0;
  int kv_head = 0;
  std::span<const int32_t> positions;  // [n]
  std::span<const float> worth;        // [n]
};

// Every (layer, KV head) has its own number of entries, in a list of pages for each tier. A chunk
// of tokens is appended to tier 0, which is exact, between BeginChunk and EndChunk; later entries
// can be moved down to a tier that stores them as codes. Removing an entry moves another of its
// tier into the hole.
class Cache {
 public:
  // `tiers`: tier 0 first, at most kMaxTiers. `limit_bytes`: most that may be allocated, 0 for no
  // limit.
  Cache(const CacheShape& shape, std::vector<TierCodecs> tiers, uint64_t limit_bytes);
  ~Cache();
  Cache(Cache&& other) noexcept = default;  // `other` can only be assigned to or destroyed
  Cache& operator=(Cache&& other) noexcept;

  // Makes room for `n_tokens` entries in every head. Throws Error(kMemoryLimit) and changes nothing
  // when that would exceed the limit, or when moving down what is exact then might.
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
  int64_t n_entries(int layer, int kv_head) const { return Head(layer, kv_head).count(); }
  int64_t n_entries(int layer, int kv_head, int tier) const {
    return Head(layer, kv_head).tiers[tier].count;
  }
  // `indices` of Entries(), descending. The order of the remaining entries changes.
  void Evict(int layer, int kv_head, std::span<const int32_t> indices);
  // Encodes entries of the tiers before `tier` by its codecs. `indices` of Entries(), descending.
  // The order of all entries changes. Heads may be given by several threads, each by one: encoding
  // takes long, and is done at the same time unless there is a limit.
  void MoveDown(int layer, int kv_head, std::span<const int32_t> indices, int tier);
  // Sets what a later judgement found; `worth` [n] of entries first..first+n-1.
  void SetWorth(int layer, int kv_head, int64_t first, std::span<const float> worth);
  // Removes every entry at `position` or later.
  void DropFrom(int32_t position);
  // Gives memory that is no longer used back to the system.
  void Trim();

  // A cache of the same entries. All pages of both are from now on shared and read-only: what one
  // of them changes it copies first, page by page. A shared page is freed when the last cache that
  // has it lets it go. Forks may be used in different threads. `tiers`: of the fork; they may
  // differ from this cache's where it has no entries.
  Cache Fork() { return Fork(codecs()); }
  Cache Fork(std::vector<TierCodecs> tiers);
  // Becomes a cache of the given entries, whose pages lie in read-only memory that `owner` keeps.
  // heads: [n_layers * n_kv_heads]. Throws Error(kMemoryLimit) and changes nothing when they exceed
  // the limit.
  struct AdoptedTier {
    int64_t n_entries = 0;
    const std::byte* pages = nullptr;  // ceil(n / 64) pages of page_bytes(tier), 64-byte aligned
  };
  struct AdoptedHead {
    std::span<const int32_t> positions;  // [n], in the order of Entries()
    std::span<const float> worth;        // [n]
    std::array<AdoptedTier, kMaxTiers> tiers = {};
  };
  void Adopt(std::span<const AdoptedHead> heads, const std::shared_ptr<const void>& owner);
  // Page `index` of a tier of a head as it lies in memory. [page_bytes(tier)]
  std::span<const std::byte> Page(int layer, int kv_head, int64_t index, int tier = 0) const;
  // The same, with zeros in the slots that hold no entry. page: [page_bytes(tier)]
  void CopyPage(int layer, int kv_head, int64_t index, int tier, std::span<std::byte> page) const;
  size_t page_bytes(int tier = 0) const { return tiers_[tier].page_bytes; }  // K and V, 64 entries

  void SetLimit(uint64_t limit_bytes) { limit_bytes_ = limit_bytes; }

  // The K and V row of an entry, as kernels see them. key, value: [head_dim]
  void Read(int layer, int kv_head, int64_t index, float* key, float* value) const;

  const CacheShape& shape() const { return shape_; }
  int n_tiers() const { return static_cast<int>(tiers_.size()); }
  std::vector<TierCodecs> codecs() const;
  uint64_t allocated_bytes() const;  // own and shared pages, positions, worths, page lists
  uint64_t shared_bytes() const;     // of it: shared pages
  uint64_t peak_bytes() const { return peak_bytes_; }
  size_t bytes_per_page(int tier = 0) const;  // what another 64 entries of one head take
  int64_t total_entries() const;

 private:
  struct Tier {
    TierCodecs codecs;
    size_t key_bytes = 0;   // of a page
    size_t page_bytes = 0;  // of a page
    PagePool pool;
  };
  struct PageList {
    std::vector<std::byte*> pages;
    std::vector<uint32_t> owners;  // beside pages: kOwn, or 1 + an index of owners_
    int64_t count = 0;             // entries, without the chunk in flight
  };
  struct HeadStore {
    std::array<PageList, kMaxTiers> tiers;
    std::vector<int32_t> positions;  // [count + chunk], in the order of Entries()
    std::vector<float> worth;        // [count + chunk]

    int64_t count() const {
      int64_t n = 0;
      for (const PageList& list : tiers) n += list.count;
      return n;
    }
    // Index of the first entry of a tier.
    int64_t begin(int tier) const {
      int64_t n = 0;
      for (int t = tier + 1; t < kMaxTiers; ++t) n += tiers[t].count;
      return n;
    }
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

  int HeadIndex(int layer, int kv_head) const { return layer * shape_.n_kv_heads + kv_head; }
  HeadStore& Head(int layer, int kv_head) { return heads_[HeadIndex(layer, kv_head)]; }
  const HeadStore& Head(int layer, int kv_head) const { return heads_[HeadIndex(layer, kv_head)]; }
  HeadView View(int index) const;
  // Throws Error(kMemoryLimit) where `n_tokens` more entries a head exceed the limit.
  void CheckLimit(int n_tokens);
  void TrimPools() noexcept;
  // Room for n_entries, and for as many positions and worths as all tiers have with them.
  void GrowMetadata(HeadStore& head, int64_t n_entries);
  void GrowPages(int tier, PageList& list, int64_t n_entries);
  void FreePages(int tier, PageList& list, int64_t n_entries) noexcept;
  void Evict(HeadStore& head, std::span<const int32_t> indices);
  // `indices` of Entries(), descending, as slots of their tiers, descending.
  using SlotsByTier = std::array<std::vector<int32_t>, kMaxTiers>;
  static SlotsByTier SlotsOf(const HeadStore& head, std::span<const int32_t> indices);
  // Removes the entries in `slots` of a tier, descending.
  void Remove(HeadStore& head, int tier, std::span<const int32_t> slots);
  void MoveEntry(int tier, PageList& list, int64_t from, int64_t to);
  // The parts of MoveDown: what can fail, what takes long.
  void MakeRoomToMove(HeadStore& head, const SlotsByTier& slots, int tier, int64_t n_moved);
  void EncodeMoved(int head, const SlotsByTier& slots, int tier);
  void ReadSlot(int head, int tier, int64_t slot, float* key, float* value) const;
  // Stores n <= 64 rows at the end of a tier.
  void Store(int head, int tier, int64_t slot, MatrixView<const float> keys,
             MatrixView<const float> values);
  void UndoChunk(size_t n_heads) noexcept;

  // Shares the pages of the cache's own pools.
  void Freeze();
  // True where the next entry goes to a page that others may be reading.
  static bool AppendsToShared(const PageList& list);
  // Puts a copy in the place of page `index`, and returns what was there.
  SharedPage Unshare(int tier, PageList& list, size_t index);
  void DropShared(SharedPage shared) noexcept;
  uint32_t AddOwner(Owner owner);
  void CountShared(uint32_t owner) noexcept;
  void CountMetadata() noexcept;
  void NotePeak();

  CacheShape shape_;
  uint64_t limit_bytes_;
  std::vector<Tier> tiers_;
  std::vector<Owner> owners_;
  std::vector<HeadStore> heads_;      // [n_layers * n_kv_heads]
  std::vector<HeadView> views_;       // beside heads_, while a chunk is in flight
  std::vector<SharedPage> replaced_;  // beside heads_: what AbandonChunk puts back
  // Of what heads have in common, while several move down.
  std::unique_ptr<std::mutex> moving_ = std::make_unique<std::mutex>();
  int chunk_tokens_ = 0;
  uint64_t metadata_bytes_ = 0;
  uint64_t shared_bytes_ = 0;
  uint64_t peak_bytes_ = 0;
};

}  // namespace pith
