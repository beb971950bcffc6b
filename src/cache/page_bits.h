// A set of the pages of one chunk.
#pragma once

#include <bit>
#include <cstdint>

namespace pith {

class PageBits {
 public:
  static constexpr int kSize = 128;

  static constexpr PageBits All() { return {~uint64_t{0}, ~uint64_t{0}}; }
  constexpr PageBits() = default;

  constexpr bool Has(int i) const { return (words_[i / 64] >> i % 64 & 1) != 0; }
  constexpr void Add(int i) { words_[i / 64] |= uint64_t{1} << i % 64; }
  constexpr void Remove(int i) { words_[i / 64] &= ~(uint64_t{1} << i % 64); }
  constexpr bool empty() const { return (words_[0] | words_[1]) == 0; }
  constexpr int size() const { return std::popcount(words_[0]) + std::popcount(words_[1]); }
  // The lowest one; kSize if there is none.
  constexpr int First() const {
    return words_[0] != 0 ? std::countr_zero(words_[0]) : 64 + std::countr_zero(words_[1]);
  }

  friend constexpr PageBits operator&(PageBits a, PageBits b) {
    return {a.words_[0] & b.words_[0], a.words_[1] & b.words_[1]};
  }
  friend constexpr PageBits operator-(PageBits a, PageBits b) {
    return {a.words_[0] & ~b.words_[0], a.words_[1] & ~b.words_[1]};
  }
  friend constexpr bool operator==(const PageBits&, const PageBits&) = default;

 private:
  constexpr PageBits(uint64_t low, uint64_t high) : words_{low, high} {}
  uint64_t words_[2] = {0, 0};
};

}  // namespace pith
