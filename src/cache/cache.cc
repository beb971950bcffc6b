#include "cache/cache.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>

#include "base/fail.h"

namespace pith {
namespace {

constexpr size_t kMetadataBytes = sizeof(int32_t) + sizeof(float);  // of an entry

int64_t PagesFor(int64_t n_entries) { return (n_entries + kPageEntries - 1) / kPageEntries; }

template <typename T>
uint64_t CapacityBytes(const std::vector<T>& v) {
  return v.capacity() * sizeof(T);
}

}  // namespace

Cache::Cache(const CacheShape& shape, std::vector<TierCodecs> tiers, uint64_t limit_bytes)
    : shape_(shape),
      limit_bytes_(limit_bytes),
      heads_(size_t{1} * shape.n_layers * shape.n_kv_heads),
      views_(heads_.size()),
      replaced_(heads_.size()) {
  for (TierCodecs& codecs : tiers) {
    const size_t key_bytes = codecs.keys->PageBytes(), page_bytes = codecs.page_bytes();
    tiers_.push_back({std::move(codecs), key_bytes, page_bytes, PagePool(page_bytes)});
  }
}

Cache::~Cache() {
  for (const HeadStore& head : heads_) {
    for (const PageList& list : head.tiers) {
      for (size_t i = 0; i < list.pages.size(); ++i) DropShared({list.pages[i], list.owners[i]});
    }
  }
  for (const SharedPage& replaced : replaced_) DropShared(replaced);
}

Cache& Cache::operator=(Cache&& other) noexcept {
  if (this != &other) {
    std::destroy_at(this);
    std::construct_at(this, std::move(other));
  }
  return *this;
}

size_t Cache::bytes_per_page(int tier) const {
  return tiers_[tier].pool.page_bytes() + kPageEntries * kMetadataBytes;
}

std::vector<TierCodecs> Cache::codecs() const {
  std::vector<TierCodecs> codecs;
  for (const Tier& tier : tiers_) codecs.push_back(tier.codecs);
  return codecs;
}

uint64_t Cache::allocated_bytes() const {
  uint64_t bytes = shared_bytes_ + metadata_bytes_;
  for (const Tier& tier : tiers_) bytes += tier.pool.allocated_bytes();
  return bytes;
}

uint64_t Cache::shared_bytes() const { return shared_bytes_; }

int64_t Cache::total_entries() const {
  int64_t total = 0;
  for (const HeadStore& head : heads_) total += head.count();
  return total;
}

void Cache::CheckLimit(int n_tokens) {
  if (limit_bytes_ == 0) return;
  uint64_t new_pages = 0, copies = 0;
  int64_t most_to_move = 0;
  for (const HeadStore& head : heads_) {
    const PageList& list = head.tiers[0];
    new_pages += PagesFor(list.count + n_tokens) - list.pages.size();
    if (AppendsToShared(list)) ++copies;
    most_to_move =
        std::max(most_to_move, head.count() - head.tiers[tiers_.size() - 1].count + n_tokens);
  }
  if (new_pages + copies == 0) return;
  uint64_t more = new_pages * bytes_per_page() + copies * tiers_[0].pool.page_bytes();
  // Moving down frees no fewer bytes than it takes, but for a last page of each tier in every head
  // and, head by head, that its codes are there before what they are made of goes.
  uint64_t widest = 0;
  for (size_t t = 1; t < tiers_.size(); ++t) {
    more += tiers_[t].pool.page_bytes() * heads_.size();
    widest = std::max<uint64_t>(widest, tiers_[t].pool.page_bytes());
  }
  more += widest * PagesFor(most_to_move);
  uint64_t used = shared_bytes_ + metadata_bytes_;
  for (const Tier& tier : tiers_) used += tier.pool.used_bytes();
  // Pages that are free but still held cost nothing to use again; give them back only if needed.
  if (used + more <= limit_bytes_ && allocated_bytes() + more > limit_bytes_) TrimPools();
  if (used + more > limit_bytes_ || allocated_bytes() + more > limit_bytes_) {
    Fail(ErrorCode::kMemoryLimit,
         "reading {} more tokens would take the KV cache to {} bytes, over its limit of {}; "
         "keep less or raise --kv-limit",
         n_tokens, used + more, limit_bytes_);
  }
}

void Cache::BeginChunk(int n_tokens, int32_t first_position) {
  CheckLimit(n_tokens);
  size_t grown = 0;
  try {
    for (; grown < heads_.size(); ++grown) {
      PageList& list = heads_[grown].tiers[0];
      if (AppendsToShared(list)) replaced_[grown] = Unshare(0, list, list.pages.size() - 1);
      GrowMetadata(heads_[grown], heads_[grown].count() + n_tokens);
      GrowPages(0, list, list.count + n_tokens);
    }
  } catch (...) {
    UndoChunk(grown + 1);
    throw;
  }
  for (size_t i = 0; i < heads_.size(); ++i) {
    HeadStore& head = heads_[i];
    const int64_t count = head.count();
    for (int t = 0; t < n_tokens; ++t) head.positions[count + t] = first_position + t;
    views_[i] = View(static_cast<int>(i));
    views_[i].tiers[0].n_entries += n_tokens;
    views_[i].n_chunk = n_tokens;
  }
  chunk_tokens_ = n_tokens;
  CountMetadata();
  NotePeak();
}

void Cache::Write(int layer, int kv_head, int first, MatrixView<const float> keys,
                  MatrixView<const float> values, std::span<const float> worth) {
  const int index = HeadIndex(layer, kv_head);
  HeadStore& head = heads_[index];
  const int64_t begin = head.tiers[0].count + first;
  for (size_t done = 0; done < keys.rows;) {
    const int64_t slot = begin + static_cast<int64_t>(done);
    const size_t n = std::min<size_t>(kPageEntries - slot % kPageEntries, keys.rows - done);
    Store(index, 0, slot, {keys.row(done), n, keys.cols, keys.stride},
          {values.row(done), n, values.cols, values.stride});
    done += n;
  }
  std::copy(worth.begin(), worth.end(), head.worth.begin() + head.count() + first);
}

void Cache::Store(int head, int tier, int64_t slot, MatrixView<const float> keys,
                  MatrixView<const float> values) {
  const Tier& t = tiers_[tier];
  std::byte* page = heads_[head].tiers[tier].pages[slot / kPageEntries];
  const int first = static_cast<int>(slot % kPageEntries);
  t.codecs.keys->Encode(head, keys, first, page);
  t.codecs.values->Encode(head, values, first, page + t.key_bytes);
}

std::span<const int32_t> Cache::ChunkPositions(int layer, int kv_head) const {
  return std::span(Head(layer, kv_head).positions).last(static_cast<size_t>(chunk_tokens_));
}

HeadView Cache::View(int index) const {
  HeadView view;
  view.n_tiers = n_tiers();
  for (int t = 0; t < view.n_tiers; ++t) {
    const Tier& tier = tiers_[t];
    const PageList& list = heads_[index].tiers[t];
    view.tiers[t] = {list.pages.data(),
                     list.count,
                     tier.key_bytes,
                     tier.page_bytes,
                     tier.codecs.keys->Format(index),
                     tier.codecs.values->Format(index)};
  }
  return view;
}

std::span<const HeadView> Cache::Views(int layer) const {
  return std::span(views_).subspan(size_t{1} * layer * shape_.n_kv_heads, shape_.n_kv_heads);
}

void Cache::EndChunk() {
  for (HeadStore& head : heads_) head.tiers[0].count += chunk_tokens_;
  for (SharedPage& replaced : replaced_) DropShared(std::exchange(replaced, {}));
  chunk_tokens_ = 0;
}

void Cache::AbandonChunk() {
  UndoChunk(heads_.size());
  chunk_tokens_ = 0;
}

void Cache::UndoChunk(size_t n_heads) noexcept {
  for (size_t i = 0; i < n_heads; ++i) {
    HeadStore& head = heads_[i];
    PageList& list = head.tiers[0];
    FreePages(0, list, list.count);
    head.positions.resize(static_cast<size_t>(head.count()));
    head.worth.resize(static_cast<size_t>(head.count()));
    if (replaced_[i].page == nullptr) continue;
    tiers_[0].pool.Free(std::exchange(list.pages.back(), replaced_[i].page));
    list.owners.back() = std::exchange(replaced_[i], {}).owner;
  }
  CountMetadata();
}

HeadEntries Cache::Entries(int layer, int kv_head) const {
  const HeadStore& head = Head(layer, kv_head);
  const size_t n = static_cast<size_t>(head.count());
  return {layer, kv_head, std::span(head.positions).first(n), std::span(head.worth).first(n)};
}

void Cache::Evict(int layer, int kv_head, std::span<const int32_t> indices) {
  Evict(Head(layer, kv_head), indices);
}

Cache::SlotsByTier Cache::SlotsOf(const HeadStore& head, std::span<const int32_t> indices) {
  SlotsByTier slots;
  for (int tier = 0; tier < kMaxTiers && !indices.empty(); ++tier) {
    const auto begin = static_cast<int32_t>(head.begin(tier));
    for (; !indices.empty() && indices.front() >= begin; indices = indices.subspan(1)) {
      slots[tier].push_back(indices.front() - begin);
    }
  }
  return slots;
}

void Cache::Evict(HeadStore& head, std::span<const int32_t> indices) {
  const SlotsByTier slots = SlotsOf(head, indices);
  for (int tier = 0; tier < n_tiers(); ++tier) Remove(head, tier, slots[tier]);
  NotePeak();
}

// The last entries that stay fill the first holes, so that only pages that stay are written to, and
// the list shrinks on the way: no more pages are private at any time than stay in the end.
void Cache::Remove(HeadStore& head, int tier, std::span<const int32_t> slots) {
  if (slots.empty()) return;
  PageList& list = head.tiers[tier];
  const auto begin = static_cast<ptrdiff_t>(head.begin(tier));
  const int64_t before = list.count;
  const int64_t after = before - std::ssize(slots);
  const auto erase_metadata = [&] {
    const ptrdiff_t from = begin + list.count, to = begin + before;
    head.positions.erase(head.positions.begin() + from, head.positions.begin() + to);
    head.worth.erase(head.worth.begin() + from, head.worth.begin() + to);
  };
  size_t n_gone = 0, n_filled = 0;  // of the slots from the front, and from the back
  while (list.count > after) {
    const int64_t last = list.count - 1;
    if (slots[n_gone] == last) {
      ++n_gone;
    } else {
      const int32_t hole = slots[slots.size() - ++n_filled];
      try {
        MoveEntry(tier, list, last, hole);
      } catch (...) {
        erase_metadata();
        throw;
      }
      head.positions[begin + hole] = head.positions[begin + last];
      head.worth[begin + hole] = head.worth[begin + last];
    }
    list.count = last;
    FreePages(tier, list, last);
  }
  erase_metadata();
}

void Cache::MoveEntry(int tier, PageList& list, int64_t from, int64_t to) {
  const auto to_page = static_cast<size_t>(to / kPageEntries);
  if (list.owners[to_page] != kOwn) DropShared(Unshare(tier, list, to_page));
  const Tier& t = tiers_[tier];
  const std::byte* source = list.pages[from / kPageEntries];
  std::byte* target = list.pages[to_page];
  const int from_slot = static_cast<int>(from % kPageEntries);
  const int to_slot = static_cast<int>(to % kPageEntries);
  t.codecs.keys->Move(source, from_slot, target, to_slot);
  t.codecs.values->Move(source + t.key_bytes, from_slot, target + t.key_bytes, to_slot);
}

void Cache::MoveDown(int layer, int kv_head, std::span<const int32_t> indices, int tier) {
  if (indices.empty()) return;
  const int index = HeadIndex(layer, kv_head);
  HeadStore& head = heads_[index];
  PageList& to = head.tiers[tier];
  const auto n_moved = std::ssize(indices);
  const SlotsByTier slots = SlotsOf(head, indices);

  // All that can fail comes before anything is moved.
  std::unique_lock lock(*moving_);
  MakeRoomToMove(head, slots, tier, n_moved);
  // The limit leaves room for one head's codes beside what they are made of.
  if (limit_bytes_ == 0) lock.unlock();
  std::vector<int32_t> positions;
  std::vector<float> worth;
  try {
    EncodeMoved(index, slots, tier);
    for (size_t n = indices.size(); n-- > 0;) {
      positions.push_back(head.positions[indices[n]]);
      worth.push_back(head.worth[indices[n]]);
    }
  } catch (...) {
    if (!lock.owns_lock()) lock.lock();
    FreePages(tier, to, to.count);
    throw;
  }
  if (!lock.owns_lock()) lock.lock();
  const auto end = static_cast<ptrdiff_t>(head.begin(tier) + to.count);
  for (int t = 0; t < tier; ++t) Remove(head, t, slots[t]);
  head.positions.insert(head.positions.begin() + end, positions.begin(), positions.end());
  head.worth.insert(head.worth.begin() + end, worth.begin(), worth.end());
  to.count += n_moved;
  CountMetadata();
  NotePeak();
}

void Cache::MakeRoomToMove(HeadStore& head, const SlotsByTier& slots, int tier, int64_t n_moved) {
  PageList& to = head.tiers[tier];
  const int64_t new_pages = PagesFor(to.count + n_moved) - std::ssize(to.pages);
  if (limit_bytes_ > 0 &&
      allocated_bytes() + new_pages * tiers_[tier].pool.page_bytes() > limit_bytes_) {
    TrimPools();
  }
  for (int t = 0; t < tier; ++t) {
    PageList& from = head.tiers[t];
    for (const int32_t slot : slots[t]) {
      const auto page = static_cast<size_t>(slot / kPageEntries);
      if (slot >= from.count - std::ssize(slots[t]) || from.owners[page] == kOwn) continue;
      DropShared(Unshare(t, from, page));
    }
  }
  if (AppendsToShared(to)) DropShared(Unshare(tier, to, to.pages.size() - 1));
  GrowPages(tier, to, to.count + n_moved);
}

// The last tiers' entries first, each in their order.
void Cache::EncodeMoved(int head, const SlotsByTier& slots, int tier) {
  const auto dim = static_cast<size_t>(shape_.head_dim);
  std::vector<float> keys(kPageEntries * dim), values(keys.size());
  int64_t at = heads_[head].tiers[tier].count;
  size_t n = 0;
  const auto store = [&] {
    if (n == 0) return;
    Store(head, tier, at, {keys.data(), n, dim, dim}, {values.data(), n, dim, dim});
    at += static_cast<int64_t>(n);
    n = 0;
  };
  for (int t = tier - 1; t >= 0; --t) {
    for (size_t i = slots[t].size(); i-- > 0;) {
      ReadSlot(head, t, slots[t][i], keys.data() + n * dim, values.data() + n * dim);
      ++n;
      if ((at + static_cast<int64_t>(n)) % kPageEntries == 0) store();
    }
  }
  store();
}

void Cache::SetWorth(int layer, int kv_head, int64_t first, std::span<const float> worth) {
  std::copy(worth.begin(), worth.end(), Head(layer, kv_head).worth.begin() + first);
}

void Cache::DropFrom(int32_t position) {
  std::vector<int32_t> gone;
  for (HeadStore& head : heads_) {
    gone.clear();
    for (int64_t i = head.count() - 1; i >= 0; --i) {
      if (head.positions[i] >= position) gone.push_back(static_cast<int32_t>(i));
    }
    Evict(head, gone);
  }
}

void Cache::Trim() {
  for (HeadStore& head : heads_) {
    const size_t wanted = static_cast<size_t>(PagesFor(head.count())) * kPageEntries;
    if (head.positions.capacity() <= wanted + wanted / 8) continue;
    head.positions.shrink_to_fit();
    head.worth.shrink_to_fit();
    for (PageList& list : head.tiers) {
      list.pages.shrink_to_fit();
      list.owners.shrink_to_fit();
    }
  }
  CountMetadata();
  TrimPools();
}

void Cache::TrimPools() noexcept {
  for (Tier& tier : tiers_) tier.pool.Trim();
  for (const Owner& owner : owners_) {
    if (owner.frozen) owner.frozen->Trim();
  }
}

std::span<const std::byte> Cache::Page(int layer, int kv_head, int64_t index, int tier) const {
  return {Head(layer, kv_head).tiers[tier].pages[index], page_bytes(tier)};
}

void Cache::CopyPage(int layer, int kv_head, int64_t index, int tier,
                     std::span<std::byte> page) const {
  std::fill(page.begin(), page.end(), std::byte{0});
  const Tier& t = tiers_[tier];
  const PageList& list = Head(layer, kv_head).tiers[tier];
  const std::byte* from = list.pages[index];
  const int64_t n_used = std::min<int64_t>(kPageEntries, list.count - index * kPageEntries);
  for (int slot = 0; slot < n_used; ++slot) {
    t.codecs.keys->Move(from, slot, page.data(), slot);
    t.codecs.values->Move(from + t.key_bytes, slot, page.data() + t.key_bytes, slot);
  }
}

void Cache::Read(int layer, int kv_head, int64_t index, float* key, float* value) const {
  const int head = HeadIndex(layer, kv_head);
  int tier = 0;
  while (index < heads_[head].begin(tier)) ++tier;
  ReadSlot(head, tier, index - heads_[head].begin(tier), key, value);
}

void Cache::ReadSlot(int head, int tier, int64_t slot, float* key, float* value) const {
  const Tier& t = tiers_[tier];
  const std::byte* page = heads_[head].tiers[tier].pages[slot / kPageEntries];
  const int in_page = static_cast<int>(slot % kPageEntries);
  t.codecs.keys->Decode(head, page, in_page, key);
  t.codecs.values->Decode(head, page + t.key_bytes, in_page, value);
}

// Grows by a quarter so that appending costs amortised O(1).
void Cache::GrowMetadata(HeadStore& head, int64_t n_entries) {
  const size_t wanted = static_cast<size_t>(n_entries);
  if (wanted > head.positions.capacity()) {
    const size_t grown = std::max(wanted, head.positions.size() + head.positions.size() / 4);
    const size_t capacity =
        static_cast<size_t>(PagesFor(static_cast<int64_t>(grown))) * kPageEntries;
    head.positions.reserve(capacity);
    head.worth.reserve(capacity);
  }
  head.positions.resize(wanted);
  head.worth.resize(wanted);
}

void Cache::GrowPages(int tier, PageList& list, int64_t n_entries) {
  const int64_t n_pages = PagesFor(n_entries);
  if (n_pages > static_cast<int64_t>(list.pages.capacity())) {
    const auto capacity = static_cast<size_t>(std::max(n_pages, std::ssize(list.pages) * 5 / 4));
    list.pages.reserve(capacity);
    list.owners.reserve(capacity);
  }
  try {
    while (std::ssize(list.pages) < n_pages) {
      list.pages.push_back(tiers_[tier].pool.Allocate());
      list.owners.push_back(kOwn);
    }
  } catch (...) {
    FreePages(tier, list, list.count);
    throw;
  }
}

void Cache::FreePages(int tier, PageList& list, int64_t n_entries) noexcept {
  while (std::ssize(list.pages) > PagesFor(n_entries)) {
    if (list.owners.back() == kOwn) tiers_[tier].pool.Free(list.pages.back());
    DropShared({list.pages.back(), list.owners.back()});
    list.pages.pop_back();
    list.owners.pop_back();
  }
}

void Cache::CountMetadata() noexcept {
  metadata_bytes_ = 0;
  for (const HeadStore& head : heads_) {
    metadata_bytes_ += CapacityBytes(head.positions) + CapacityBytes(head.worth);
    for (const PageList& list : head.tiers) {
      metadata_bytes_ += CapacityBytes(list.pages) + CapacityBytes(list.owners);
    }
  }
}

void Cache::NotePeak() { peak_bytes_ = std::max(peak_bytes_, allocated_bytes()); }

}  // namespace pith
