// Finds special tokens in text before it is merged.
#pragma once

#include <bitset>
#include <cstddef>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/vocabulary.h"

namespace pith {

struct TextRange {
  size_t begin = 0;
  size_t end = 0;
};

// A stretch of text, or the special token found there.
struct Fragment {
  TextRange range;
  Token token = -1;  // -1: text
};

// Longer tokens are found first, and those of one length from the left. User-defined tokens are
// found everywhere, control and unknown tokens in markup only.
class SpecialTokens {
 public:
  // `vocabulary` must outlive this.
  explicit SpecialTokens(const Vocabulary& vocabulary);

  // `markup`: ascending ranges of `text` that do not touch. Fragments in order, none empty.
  std::vector<Fragment> Partition(std::string_view text, std::span<const TextRange> markup) const;

 private:
  struct Group {  // tokens of one length
    size_t length = 0;
    std::bitset<256> first_bytes;
    std::unordered_map<std::string_view, Token> tokens;
  };

  const Group* Longest(std::string_view text) const;
  void DropSpaceAfterSpecial(std::string_view text, std::vector<Fragment>& fragments) const;

  const Vocabulary& vocabulary_;
  std::vector<Group> groups_;  // longest first
  std::bitset<256> first_bytes_;
};

}  // namespace pith
