// Looks up what two neighbouring symbols merge into.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pith {

struct Merge {
  int32_t rank = -1;  // lower merges first; -1: the pair does not merge
  int32_t symbol = -1;
};

// A hash table with linear probing, at most half full. Symbols are not negative.
class MergeTable {
 public:
  void Reserve(size_t n) {
    size_t size = 16;
    while (size < 2 * n) size *= 2;
    slots_.assign(size, {});
  }

  // Keeps the first of equal pairs. At most as many pairs as were reserved.
  void Add(int32_t left, int32_t right, Merge merge) {
    Slot& slot = slots_[Place(Key(left, right))];
    if (slot.merge.rank < 0) slot = {Key(left, right), merge};
  }

  Merge Find(int32_t left, int32_t right) const {
    return slots_.empty() ? Merge{} : slots_[Place(Key(left, right))].merge;
  }

 private:
  struct Slot {
    uint64_t key = 0;
    Merge merge;
  };

  static uint64_t Key(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }

  // Where `key` is, or would go.
  size_t Place(uint64_t key) const {
    const size_t mask = slots_.size() - 1;
    uint64_t hash = key * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 32;
    size_t i = hash & mask;
    while (slots_[i].merge.rank >= 0 && slots_[i].key != key) i = (i + 1) & mask;
    return i;
  }

  std::vector<Slot> slots_;
};

}  // namespace pith
