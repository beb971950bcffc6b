#include <algorithm>
#include <bit>
#include <cmath>

#include "budgets/candidates.h"

namespace pith {
namespace {

constexpr uint64_t kGuaranteed = uint64_t{1} << 63;

// Integers in the order in which entries go, leaving the top bit free: by worth, then by position.
uint64_t Key(float worth, int32_t position) {
  uint32_t rank = 0;  // of NaN
  if (!std::isnan(worth)) {
    const uint32_t bits = std::bit_cast<uint32_t>(worth + 0.0f);  // one zero, not two
    rank = bits >> 31 ? ~bits : bits | 0x80000000u;
  }
  return uint64_t{rank} << 31 | (static_cast<uint32_t>(position) & 0x7fffffffu);
}

int64_t Share(int64_t total, size_t n_heads, size_t head) {
  const auto n = static_cast<int64_t>(n_heads);
  return total / n + (static_cast<int64_t>(head) < total % n ? 1 : 0);
}

// Chooses for groups of heads, one after another.
class Chooser {
 public:
  Chooser(std::span<const HeadEntries> heads, const BudgetLimits& limits, double head_floor,
          Verdicts& out)
      : heads_(heads), limits_(limits), head_floor_(head_floor), out_(out) {}

  // Heads [begin, end) are a group.
  void Choose(size_t begin, size_t end) {
    int64_t excess = 0;
    for (size_t h = begin; h < end; ++h) {
      excess += static_cast<int64_t>(heads_[h].positions.size()) - ShareOf(h);
    }
    if (excess <= 0) return;

    keys_.clear();
    guaranteed_from_.clear();
    for (size_t h = begin; h < end; ++h) Collect(h);
    if (keys_.empty()) return;

    // The last key to go. Only entries of different heads can have the same one.
    const size_t n = std::min(keys_.size(), static_cast<size_t>(excess));
    const auto last = keys_.begin() + static_cast<ptrdiff_t>(n) - 1;
    std::nth_element(keys_.begin(), last, keys_.end());
    int64_t ties = 1 + std::count(keys_.begin(), last, *last);
    for (size_t h = begin; h < end; ++h) {
      const HeadEntries& head = heads_[h];
      for (size_t i = head.positions.size(); i-- > 0;) {
        if (IsProtected(head, i, limits_)) continue;
        uint64_t key = Key(head.worth[i], head.positions[i]);
        if (key >= guaranteed_from_[h - begin]) key |= kGuaranteed;
        if (key < *last || (key == *last && ties-- > 0)) {
          out_[h].push_back(static_cast<int32_t>(i));
        }
      }
    }
  }

 private:
  int64_t ShareOf(size_t head) const { return Share(limits_.total, heads_.size(), head); }

  // Adds the keys of what may go, with those that the floor guarantees behind all others.
  void Collect(size_t h) {
    const HeadEntries& head = heads_[h];
    const size_t before = keys_.size();
    for (size_t i = 0; i < head.positions.size(); ++i) {
      if (!IsProtected(head, i, limits_)) {
        keys_.push_back(Key(head.worth[i], head.positions[i]));
      }
    }
    const auto n_candidates = static_cast<int64_t>(keys_.size() - before);
    const auto n_protected = static_cast<int64_t>(head.positions.size()) - n_candidates;
    const auto floor = static_cast<int64_t>(head_floor_ * static_cast<double>(ShareOf(h)));
    const int64_t n_guaranteed = std::min(floor - n_protected, n_candidates);
    if (n_guaranteed <= 0) {
      guaranteed_from_.push_back(kGuaranteed);
      return;
    }
    const auto first = keys_.end() - n_guaranteed;
    std::nth_element(keys_.begin() + static_cast<ptrdiff_t>(before), first, keys_.end());
    guaranteed_from_.push_back(*first);
    for (auto key = first; key != keys_.end(); ++key) *key |= kGuaranteed;
  }

  std::span<const HeadEntries> heads_;
  const BudgetLimits& limits_;
  double head_floor_;
  Verdicts& out_;
  std::vector<uint64_t> keys_;             // of what may go
  std::vector<uint64_t> guaranteed_from_;  // per head of the group: the lowest guaranteed key
};

}  // namespace

void ShareBudget::Allocate(std::span<const HeadEntries> heads, const BudgetLimits& limits,
                           Verdicts& out) const {
  out.assign(heads.size(), {});
  Chooser chooser(heads, limits, limits.head_floor < 0 ? head_floor_ : limits.head_floor, out);
  for (size_t begin = 0, end = 0; begin < heads.size(); begin = end) {
    end = begin + 1;
    while (end < heads.size() &&
           (sharing_ == Sharing::kAll ||
            (sharing_ == Sharing::kLayer && heads[end].layer == heads[begin].layer))) {
      ++end;
    }
    chooser.Choose(begin, end);
  }
}

}  // namespace pith
