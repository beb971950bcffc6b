// Pages that a cache shares with its forks or with a file: never written, and copied by whoever
// changes them.
#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "base/fail.h"
#include "cache/cache.h"

namespace pith {

void Cache::Freeze() {
  for (int t = 0; t < n_tiers(); ++t) {
    Tier& tier = tiers_[t];
    if (tier.pool.used_bytes() == 0) continue;
    auto frozen = std::make_shared<FrozenPages>(tier.page_bytes);
    for (const HeadStore& head : heads_) {
      const PageList& list = head.tiers[t];
      for (size_t i = 0; i < list.pages.size(); ++i) {
        if (list.owners[i] == kOwn) frozen->Keep(list.pages[i]);
      }
    }
    const uint32_t place = AddOwner({frozen, nullptr, tier.pool.page_bytes(), 0});
    frozen->TakePool(std::move(tier.pool));
    for (HeadStore& head : heads_) {
      for (uint32_t& owner : head.tiers[t].owners) {
        if (owner != kOwn) continue;
        owner = place;
        CountShared(place);
      }
    }
  }
}

Cache Cache::Fork(std::vector<TierCodecs> tiers) {
  Cache fork(shape_, std::move(tiers), limit_bytes_);
  Trim();
  Freeze();
  auto heads = heads_;
  auto owners = owners_;
  for (const HeadStore& head : heads_) {
    for (const PageList& list : head.tiers) {
      for (size_t i = 0; i < list.pages.size(); ++i) {
        FrozenPages* frozen = owners_[list.owners[i] - 1].frozen.get();
        if (frozen != nullptr) frozen->Keep(list.pages[i]);
      }
    }
  }
  fork.heads_ = std::move(heads);
  fork.owners_ = std::move(owners);
  fork.shared_bytes_ = shared_bytes_;
  fork.CountMetadata();
  fork.NotePeak();
  return fork;
}

void Cache::Adopt(std::span<const AdoptedHead> heads, const std::shared_ptr<const void>& owner) {
  Cache adopted(shape_, codecs(), limit_bytes_);
  for (int t = 0; t < n_tiers(); ++t) {
    const bool any = std::ranges::any_of(
        heads, [t](const AdoptedHead& head) { return head.tiers[t].n_entries > 0; });
    if (!any) continue;
    const uint32_t place = adopted.AddOwner({nullptr, owner, page_bytes(t), 0});
    for (size_t i = 0; i < heads_.size(); ++i) {
      const AdoptedTier& from = heads[i].tiers[t];
      PageList& to = adopted.heads_[i].tiers[t];
      to.count = from.n_entries;
      const auto n_pages = static_cast<size_t>((to.count + kPageEntries - 1) / kPageEntries);
      to.owners.assign(n_pages, place);
      to.pages.reserve(n_pages);
      for (size_t p = 0; p < n_pages; ++p) {
        // Never written: these pages have an owner.
        to.pages.push_back(const_cast<std::byte*>(from.pages) + p * page_bytes(t));
        adopted.CountShared(place);
      }
    }
  }
  for (size_t i = 0; i < heads_.size(); ++i) {
    HeadStore& to = adopted.heads_[i];
    to.positions.assign(heads[i].positions.begin(), heads[i].positions.end());
    to.worth.assign(heads[i].worth.begin(), heads[i].worth.end());
  }
  adopted.CountMetadata();
  adopted.NotePeak();
  if (limit_bytes_ > 0 && adopted.allocated_bytes() > limit_bytes_) {
    Fail(ErrorCode::kMemoryLimit, "{} bytes of saved KV cache are over the limit of {}",
         adopted.allocated_bytes(), limit_bytes_);
  }
  *this = std::move(adopted);
}

bool Cache::AppendsToShared(const PageList& list) {
  return list.count % kPageEntries != 0 && list.owners.back() != kOwn;
}

Cache::SharedPage Cache::Unshare(int tier, PageList& list, size_t index) {
  std::byte* copy = tiers_[tier].pool.Allocate();
  std::memcpy(copy, list.pages[index], tiers_[tier].page_bytes);
  return {std::exchange(list.pages[index], copy), std::exchange(list.owners[index], kOwn)};
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

}  // namespace pith
