// A set of the pages of one chunk.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace pith {

class PageBits {
 public:
  static constexpr int kSize = 1024;

  // The first n.
  static constexpr PageBits First(int n) {
    PageBits bits;
    for (int i = 0; i < n; ++i) bits.Add(i);
    return bits;
  }

  constexpr bool Has(int i) const { return (words_[i / 64] >> i % 64 & 1) != 0; }
  constexpr void Add(int i) { words_[i / 64] |= uint64_t{1} << i % 64; }
  constexpr void Remove(int i) { words_[i / 64] &= ~(uint64_t{1} << i % 64); }
  constexpr bool empty() const { return lowest() == kSize; }
  constexpr int size() const {
    int n = 0;
    for (const uint64_t word : words_) n += std::popcount(word);
    return n;
  }
  // kSize if there is none.
  constexpr int lowest() const {
    for (int i = 0; i < kWords; ++i) {
      if (words_[i] != 0) return i * 64 + std::countr_zero(words_[i]);
    }
    return kSize;
  }

  friend constexpr PageBits operator&(PageBits a, const PageBits& b) {
    for (int i = 0; i < kWords; ++i) a.words_[i] &= b.words_[i];
    return a;
  }
  friend constexpr PageBits operator-(PageBits a, const PageBits& b) {
    for (int i = 0; i < kWords; ++i) a.words_[i] &= ~b.words_[i];
    return a;
  }
  friend constexpr bool operator==(const PageBits&, const PageBits&) = default;

 private:
  static constexpr int kWords = kSize / 64;
  std::array<uint64_t, kWords> words_ = {};
};

}  // namespace pith
