#include "cache/cache.h"

#include <algorithm>
#include <cstring>
#include <memory>
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

Cache::Cache(const CacheShape& shape, std::shared_ptr<const Codec> key_codec,
             std::shared_ptr<const Codec> value_codec, uint64_t limit_bytes)
    : shape_(shape),
      key_codec_(std::move(key_codec)),
      value_codec_(std::move(value_codec)),
      key_bytes_(key_codec_->PageBytes()),
      page_bytes_(key_bytes_ + value_codec_->PageBytes()),
      limit_bytes_(limit_bytes),
      pool_(page_bytes_),
      heads_(size_t{1} * shape.n_layers * shape.n_kv_heads),
      views_(heads_.size()),
      replaced_(heads_.size()) {}

Cache::Cache(const CacheShape& shape, std::unique_ptr<Codec> key_codec,
             std::unique_ptr<Codec> value_codec, uint64_t limit_bytes)
    : Cache(shape, std::shared_ptr<const Codec>(std::move(key_codec)),
            std::shared_ptr<const Codec>(std::move(value_codec)), limit_bytes) {}

Cache::~Cache() {
  for (const HeadStore& head : heads_) {
    for (size_t i = 0; i < head.pages.size(); ++i) DropShared({head.pages[i], head.owners[i]});
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

size_t Cache::bytes_per_page() const { return pool_.page_bytes() + kPageEntries * kMetadataBytes; }

uint64_t Cache::allocated_bytes() const {
  return pool_.allocated_bytes() + shared_bytes_ + metadata_bytes_;
}

uint64_t Cache::shared_bytes() const { return shared_bytes_; }

int64_t Cache::total_entries() const {
  int64_t total = 0;
  for (const HeadStore& head : heads_) total += head.count;
  return total;
}

void Cache::BeginChunk(int n_tokens, int32_t first_position) {
  uint64_t new_pages = 0, copies = 0;
  for (const HeadStore& head : heads_) {
    new_pages += PagesFor(head.count + n_tokens) - head.pages.size();
    if (AppendsToShared(head)) ++copies;
  }
  if (limit_bytes_ > 0 && new_pages + copies > 0) {
    // Pages that are free but still held cost nothing to use again; give them back only if needed.
    const uint64_t more = shared_bytes_ + metadata_bytes_ + new_pages * bytes_per_page() +
                          copies * pool_.page_bytes();
    if (pool_.used_bytes() + more > limit_bytes_) {
      Fail(ErrorCode::kMemoryLimit,
           "reading {} more tokens would take the KV cache to {} bytes, over its limit of {}; "
           "keep less or raise --kv-limit",
           n_tokens, pool_.used_bytes() + more, limit_bytes_);
    }
    if (pool_.allocated_bytes() + more > limit_bytes_) pool_.Trim();
  }
  size_t grown = 0;
  try {
    for (; grown < heads_.size(); ++grown) {
      HeadStore& head = heads_[grown];
      if (AppendsToShared(head)) replaced_[grown] = Unshare(head, head.pages.size() - 1);
      Resize(head, head.count + n_tokens);
    }
  } catch (...) {
    UndoChunk(grown + 1);
    throw;
  }
  for (size_t i = 0; i < heads_.size(); ++i) {
    HeadStore& head = heads_[i];
    for (int t = 0; t < n_tokens; ++t) head.positions[head.count + t] = first_position + t;
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
  const int64_t begin = head.count + first;
  for (size_t done = 0; done < keys.rows;) {
    const int64_t entry = begin + static_cast<int64_t>(done);
    const int slot = static_cast<int>(entry % kPageEntries);
    const size_t n = std::min<size_t>(kPageEntries - slot, keys.rows - done);
    std::byte* page = head.pages[entry / kPageEntries];
    key_codec_->Encode(index, {keys.row(done), n, keys.cols, keys.stride}, slot, page);
    value_codec_->Encode(index, {values.row(done), n, values.cols, values.stride}, slot,
                         ValuePart(page));
    done += n;
  }
  std::copy(worth.begin(), worth.end(), head.worth.begin() + begin);
}

std::span<const int32_t> Cache::ChunkPositions(int layer, int kv_head) const {
  return std::span(Head(layer, kv_head).positions).last(static_cast<size_t>(chunk_tokens_));
}

HeadView Cache::View(int index) const {
  const HeadStore& head = heads_[index];
  HeadView view;
  view.tiers[0] = {
      head.pages.data(),          head.count, key_bytes_, page_bytes_, key_codec_->Format(index),
      value_codec_->Format(index)};
  return view;
}

std::span<const HeadView> Cache::Views(int layer) const {
  return std::span(views_).subspan(size_t{1} * layer * shape_.n_kv_heads, shape_.n_kv_heads);
}

void Cache::EndChunk() {
  for (HeadStore& head : heads_) head.count += chunk_tokens_;
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
    FreePages(head, head.count);
    if (replaced_[i].page == nullptr) continue;
    pool_.Free(std::exchange(head.pages.back(), replaced_[i].page));
    head.owners.back() = std::exchange(replaced_[i], {}).owner;
  }
  CountMetadata();
}

HeadEntries Cache::Entries(int layer, int kv_head) const {
  const HeadStore& head = Head(layer, kv_head);
  const size_t n = static_cast<size_t>(head.count);
  return {layer, kv_head, std::span(head.positions).first(n), std::span(head.worth).first(n)};
}

void Cache::Evict(int layer, int kv_head, std::span<const int32_t> indices) {
  Evict(Head(layer, kv_head), indices);
}

// Descending holes meet the end of the list as it shrinks: a page that had to be copied is either
// kept or soon freed, and no more pages are private at any time than stay in the end.
void Cache::Evict(HeadStore& head, std::span<const int32_t> indices) {
  for (const int32_t hole : indices) {
    const int64_t last = head.count - 1;
    if (hole != last) {
      const size_t to_page = static_cast<size_t>(hole / kPageEntries);
      if (head.owners[to_page] != kOwn) DropShared(Unshare(head, to_page));
      std::byte* to = head.pages[to_page];
      const std::byte* from = head.pages[last / kPageEntries];
      const int from_slot = static_cast<int>(last % kPageEntries);
      const int to_slot = static_cast<int>(hole % kPageEntries);
      key_codec_->Move(from, from_slot, to, to_slot);
      value_codec_->Move(from + key_bytes_, from_slot, ValuePart(to), to_slot);
      head.positions[hole] = head.positions[last];
      head.worth[hole] = head.worth[last];
    }
    head.count = last;
    FreePages(head, last);
  }
  NotePeak();
}

void Cache::SetWorth(int layer, int kv_head, int64_t first, std::span<const float> worth) {
  std::copy(worth.begin(), worth.end(), Head(layer, kv_head).worth.begin() + first);
}

void Cache::DropFrom(int32_t position) {
  std::vector<int32_t> gone;
  for (HeadStore& head : heads_) {
    gone.clear();
    for (int64_t i = head.count - 1; i >= 0; --i) {
      if (head.positions[i] >= position) gone.push_back(static_cast<int32_t>(i));
    }
    Evict(head, gone);
  }
}

void Cache::Trim() {
  for (HeadStore& head : heads_) {
    const size_t wanted = static_cast<size_t>(PagesFor(head.count)) * kPageEntries;
    if (head.positions.capacity() <= wanted + wanted / 8) continue;
    head.positions.shrink_to_fit();
    head.worth.shrink_to_fit();
    head.pages.shrink_to_fit();
    head.owners.shrink_to_fit();
  }
  CountMetadata();
  pool_.Trim();
  for (const Owner& owner : owners_) {
    if (owner.frozen) owner.frozen->Trim();
  }
}

void Cache::Freeze() {
  if (pool_.used_bytes() == 0) return;
  auto frozen = std::make_shared<FrozenPages>(page_bytes_);
  for (const HeadStore& head : heads_) {
    for (size_t i = 0; i < head.pages.size(); ++i) {
      if (head.owners[i] == kOwn) frozen->Keep(head.pages[i]);
    }
  }
  const uint32_t place = AddOwner({frozen, nullptr, pool_.page_bytes(), 0});
  frozen->TakePool(std::move(pool_));
  for (HeadStore& head : heads_) {
    for (uint32_t& owner : head.owners) {
      if (owner != kOwn) continue;
      owner = place;
      CountShared(place);
    }
  }
}

Cache Cache::Fork() {
  Cache fork(shape_, key_codec_, value_codec_, limit_bytes_);
  Trim();
  Freeze();
  auto heads = heads_;
  auto owners = owners_;
  for (const HeadStore& head : heads_) {
    for (size_t i = 0; i < head.pages.size(); ++i) {
      FrozenPages* frozen = owners_[head.owners[i] - 1].frozen.get();
      if (frozen != nullptr) frozen->Keep(head.pages[i]);
    }
  }
  fork.heads_ = std::move(heads);
  fork.owners_ = std::move(owners);
  fork.shared_bytes_ = shared_bytes_;
  fork.CountMetadata();
  fork.NotePeak();
  return fork;
}

void Cache::Adopt(std::span<const AdoptedHead> heads, std::shared_ptr<const void> owner) {
  Cache adopted(shape_, key_codec_, value_codec_, limit_bytes_);
  const uint32_t place = adopted.AddOwner({nullptr, std::move(owner), page_bytes_, 0});
  for (size_t i = 0; i < heads_.size(); ++i) {
    const AdoptedHead& from = heads[i];
    HeadStore& to = adopted.heads_[i];
    to.count = static_cast<int64_t>(from.positions.size());
    to.positions.assign(from.positions.begin(), from.positions.end());
    to.worth.assign(from.worth.begin(), from.worth.end());
    const size_t n_pages = static_cast<size_t>(PagesFor(to.count));
    to.owners.assign(n_pages, place);
    to.pages.reserve(n_pages);
    for (size_t p = 0; p < n_pages; ++p) {
      // Never written: these pages have an owner.
      to.pages.push_back(const_cast<std::byte*>(from.pages) + p * page_bytes_);
      adopted.CountShared(place);
    }
  }
  if (adopted.shared_bytes_ == 0) adopted.owners_.clear();
  adopted.CountMetadata();
  adopted.NotePeak();
  if (limit_bytes_ > 0 && adopted.allocated_bytes() > limit_bytes_) {
    Fail(ErrorCode::kMemoryLimit, "{} bytes of saved KV cache are over the limit of {}",
         adopted.allocated_bytes(), limit_bytes_);
  }
  *this = std::move(adopted);
}

std::span<const std::byte> Cache::Page(int layer, int kv_head, int64_t index) const {
  return {Head(layer, kv_head).pages[index], page_bytes_};
}

void Cache::CopyPage(int layer, int kv_head, int64_t index, std::span<std::byte> page) const {
  std::fill(page.begin(), page.end(), std::byte{0});
  const std::byte* from = Head(layer, kv_head).pages[index];
  const int64_t n_used =
      std::min<int64_t>(kPageEntries, Head(layer, kv_head).count - index * kPageEntries);
  for (int slot = 0; slot < n_used; ++slot) {
    key_codec_->Move(from, slot, page.data(), slot);
    value_codec_->Move(from + key_bytes_, slot, page.data() + key_bytes_, slot);
  }
}

void Cache::Read(int layer, int kv_head, int64_t index, float* key, float* value) const {
  const HeadStore& head = Head(layer, kv_head);
  const std::byte* page = head.pages[index / kPageEntries];
  const int slot = static_cast<int>(index % kPageEntries);
  key_codec_->Decode(HeadIndex(layer, kv_head), page, slot, key);
  value_codec_->Decode(HeadIndex(layer, kv_head), page + key_bytes_, slot, value);
}

// Room for n_entries. Metadata grows by a quarter so that appending costs amortised O(1).
void Cache::Resize(HeadStore& head, int64_t n_entries) {
  const size_t wanted = static_cast<size_t>(n_entries);
  if (wanted > head.positions.capacity()) {
    const size_t grown = std::max(wanted, head.positions.size() + head.positions.size() / 4);
    const size_t capacity =
        static_cast<size_t>(PagesFor(static_cast<int64_t>(grown))) * kPageEntries;
    head.positions.reserve(capacity);
    head.worth.reserve(capacity);
  }
  const auto n_pages =
      static_cast<size_t>(PagesFor(static_cast<int64_t>(head.positions.capacity())));
  head.pages.reserve(n_pages);
  head.owners.reserve(n_pages);
  head.positions.resize(wanted);
  head.worth.resize(wanted);
  while (static_cast<int64_t>(head.pages.size()) < PagesFor(n_entries)) {
    head.pages.push_back(pool_.Allocate());
    head.owners.push_back(kOwn);
  }
}

void Cache::FreePages(HeadStore& head, int64_t n_entries) noexcept {
  while (static_cast<int64_t>(head.pages.size()) > PagesFor(n_entries)) {
    if (head.owners.back() == kOwn) pool_.Free(head.pages.back());
    DropShared({head.pages.back(), head.owners.back()});
    head.pages.pop_back();
    head.owners.pop_back();
  }
  head.positions.resize(static_cast<size_t>(n_entries));
  head.worth.resize(static_cast<size_t>(n_entries));
}

bool Cache::AppendsToShared(const HeadStore& head) const {
  return head.count % kPageEntries != 0 && head.owners.back() != kOwn;
}

Cache::SharedPage Cache::Unshare(HeadStore& head, size_t index) {
  std::byte* copy = pool_.Allocate();
  std::memcpy(copy, head.pages[index], page_bytes_);
  return {std::exchange(head.pages[index], copy), std::exchange(head.owners[index], kOwn)};
}

// Of a page that is the cache's own, nothing.
void Cache::DropShared(SharedPage shared) noexcept {
  if (shared.owner == kOwn) return;
  Owner& owner = owners_[shared.owner - 1];
  if (owner.frozen) owner.frozen->LetGo(shared.page);
  shared_bytes_ -= owner.page_bytes;
  if (--owner.pages > 0) return;
  if (owner.frozen) owner.frozen->Trim();
  owner = {};
}

uint32_t Cache::AddOwner(Owner owner) {
  const auto place = std::find_if(owners_.begin(), owners_.end(),
                                  [](const Owner& o) { return !o.frozen && !o.memory; });
  const auto index = static_cast<uint32_t>(place - owners_.begin());
  if (place == owners_.end()) owners_.emplace_back();
  owners_[index] = std::move(owner);
  return index + 1;
}

void Cache::CountShared(uint32_t owner) noexcept {
  ++owners_[owner - 1].pages;
  shared_bytes_ += owners_[owner - 1].page_bytes;
}

void Cache::CountMetadata() noexcept {
  metadata_bytes_ = 0;
  for (const HeadStore& head : heads_) {
    metadata_bytes_ += CapacityBytes(head.positions) + CapacityBytes(head.worth) +
                       CapacityBytes(head.pages) + CapacityBytes(head.owners);
  }
}

void Cache::NotePeak() { peak_bytes_ = std::max(peak_bytes_, allocated_bytes()); }

}  // namespace pith
