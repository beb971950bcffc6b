#include "cache/cache.h"

#include <algorithm>

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

Cache::Cache(const CacheShape& shape, std::unique_ptr<Codec> key_codec,
             std::unique_ptr<Codec> value_codec, uint64_t limit_bytes)
    : shape_(shape),
      key_codec_(std::move(key_codec)),
      value_codec_(std::move(value_codec)),
      key_bytes_(key_codec_->PageBytes(shape.head_dim)),
      limit_bytes_(limit_bytes),
      pool_(key_bytes_ + value_codec_->PageBytes(shape.head_dim)),
      heads_(size_t{1} * shape.n_layers * shape.n_kv_heads),
      views_(heads_.size()) {}

size_t Cache::bytes_per_page() const { return pool_.page_bytes() + kPageEntries * kMetadataBytes; }

uint64_t Cache::allocated_bytes() const { return pool_.allocated_bytes() + metadata_bytes_; }

int64_t Cache::total_entries() const {
  int64_t total = 0;
  for (const HeadStore& head : heads_) total += head.count;
  return total;
}

void Cache::BeginChunk(int n_tokens, int32_t first_position) {
  uint64_t new_pages = 0;
  for (const HeadStore& head : heads_) {
    new_pages += PagesFor(head.count + n_tokens) - head.pages.size();
  }
  if (limit_bytes_ > 0 && new_pages > 0) {
    // Pages that are free but still held cost nothing to use again; give them back only if needed.
    const uint64_t wanted = pool_.used_bytes() + metadata_bytes_ + new_pages * bytes_per_page();
    if (wanted > limit_bytes_) {
      Fail(ErrorCode::kMemoryLimit,
           "reading {} more tokens would take the KV cache to {} bytes, over its limit of {}; "
           "keep less or raise --kv-limit",
           n_tokens, wanted, limit_bytes_);
    }
    if (pool_.allocated_bytes() + metadata_bytes_ + new_pages * bytes_per_page() > limit_bytes_) {
      pool_.Trim();
    }
  }
  size_t grown = 0;
  try {
    for (; grown < heads_.size(); ++grown) Resize(heads_[grown], heads_[grown].count + n_tokens);
  } catch (...) {
    for (size_t i = 0; i <= grown; ++i) FreePages(heads_[i], heads_[i].count);
    throw;
  }
  for (size_t i = 0; i < heads_.size(); ++i) {
    HeadStore& head = heads_[i];
    for (int t = 0; t < n_tokens; ++t) head.positions[head.count + t] = first_position + t;
    views_[i] = {head.pages.data(), head.count + n_tokens, n_tokens};
  }
  chunk_tokens_ = n_tokens;
  NotePeak();
}

void Cache::Write(int layer, int kv_head, int first, MatrixView<const float> keys,
                  MatrixView<const float> values, std::span<const float> worth) {
  HeadStore& head = Head(layer, kv_head);
  const int64_t begin = head.count + first;
  for (size_t done = 0; done < keys.rows;) {
    const int64_t entry = begin + static_cast<int64_t>(done);
    const int slot = static_cast<int>(entry % kPageEntries);
    const size_t n = std::min<size_t>(kPageEntries - slot, keys.rows - done);
    std::byte* page = head.pages[entry / kPageEntries];
    key_codec_->Encode({keys.row(done), n, keys.cols, keys.stride}, slot, page);
    value_codec_->Encode({values.row(done), n, values.cols, values.stride}, slot, ValuePart(page));
    done += n;
  }
  std::copy(worth.begin(), worth.end(), head.worth.begin() + begin);
}

std::span<const int32_t> Cache::ChunkPositions(int layer, int kv_head) const {
  return std::span(Head(layer, kv_head).positions).last(static_cast<size_t>(chunk_tokens_));
}

std::span<const HeadView> Cache::Views(int layer) const {
  return std::span(views_).subspan(size_t{1} * layer * shape_.n_kv_heads, shape_.n_kv_heads);
}

void Cache::EndChunk() {
  for (HeadStore& head : heads_) head.count += chunk_tokens_;
  chunk_tokens_ = 0;
}

void Cache::AbandonChunk() {
  for (HeadStore& head : heads_) FreePages(head, head.count);
  chunk_tokens_ = 0;
}

HeadEntries Cache::Entries(int layer, int kv_head) const {
  const HeadStore& head = Head(layer, kv_head);
  const size_t n = static_cast<size_t>(head.count);
  return {layer, kv_head, std::span(head.positions).first(n), std::span(head.worth).first(n)};
}

void Cache::Evict(int layer, int kv_head, std::span<const int32_t> indices) {
  HeadStore& head = Head(layer, kv_head);
  for (const int32_t hole : indices) {
    const int64_t last = --head.count;
    if (hole == last) continue;
    const std::byte* from = head.pages[last / kPageEntries];
    std::byte* to = head.pages[hole / kPageEntries];
    const int from_slot = static_cast<int>(last % kPageEntries);
    const int to_slot = static_cast<int>(hole % kPageEntries);
    key_codec_->Move(from, from_slot, to, to_slot, shape_.head_dim);
    value_codec_->Move(from + key_bytes_, from_slot, ValuePart(to), to_slot, shape_.head_dim);
    head.positions[hole] = head.positions[last];
    head.worth[hole] = head.worth[last];
  }
  FreePages(head, head.count);
}

void Cache::Trim() {
  for (HeadStore& head : heads_) {
    const size_t wanted = static_cast<size_t>(PagesFor(head.count)) * kPageEntries;
    if (head.positions.capacity() <= wanted + wanted / 8) continue;
    metadata_bytes_ -=
        CapacityBytes(head.positions) + CapacityBytes(head.worth) + CapacityBytes(head.pages);
    head.positions.shrink_to_fit();
    head.worth.shrink_to_fit();
    head.pages.shrink_to_fit();
    metadata_bytes_ +=
        CapacityBytes(head.positions) + CapacityBytes(head.worth) + CapacityBytes(head.pages);
  }
  pool_.Trim();
}

void Cache::Read(int layer, int kv_head, int64_t index, float* key, float* value) const {
  const HeadStore& head = Head(layer, kv_head);
  const std::byte* page = head.pages[index / kPageEntries];
  const int slot = static_cast<int>(index % kPageEntries);
  key_codec_->Decode(page, slot, shape_.head_dim, key);
  value_codec_->Decode(page + key_bytes_, slot, shape_.head_dim, value);
}

// Room for n_entries. Metadata grows by a quarter so that appending costs amortised O(1).
void Cache::Resize(HeadStore& head, int64_t n_entries) {
  const size_t wanted = static_cast<size_t>(n_entries);
  metadata_bytes_ -=
      CapacityBytes(head.positions) + CapacityBytes(head.worth) + CapacityBytes(head.pages);
  if (wanted > head.positions.capacity()) {
    const size_t grown = std::max(wanted, head.positions.size() + head.positions.size() / 4);
    const size_t capacity =
        static_cast<size_t>(PagesFor(static_cast<int64_t>(grown))) * kPageEntries;
    head.positions.reserve(capacity);
    head.worth.reserve(capacity);
    head.pages.reserve(capacity / kPageEntries);
  }
  head.positions.resize(wanted);
  head.worth.resize(wanted);
  metadata_bytes_ +=
      CapacityBytes(head.positions) + CapacityBytes(head.worth) + CapacityBytes(head.pages);
  while (static_cast<int64_t>(head.pages.size()) < PagesFor(n_entries)) {
    head.pages.push_back(pool_.Allocate());
  }
}

void Cache::FreePages(HeadStore& head, int64_t n_entries) noexcept {
  while (static_cast<int64_t>(head.pages.size()) > PagesFor(n_entries)) {
    pool_.Free(head.pages.back());
    head.pages.pop_back();
  }
  head.positions.resize(static_cast<size_t>(n_entries));
  head.worth.resize(static_cast<size_t>(n_entries));
}

void Cache::NotePeak() { peak_bytes_ = std::max(peak_bytes_, allocated_bytes()); }

}  // namespace pith
