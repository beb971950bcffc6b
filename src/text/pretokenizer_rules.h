// Which expressions each pre-tokenizer applies, one after the other.
#pragma once

#include <span>
#include <string_view>
#include <vector>

namespace pith {

// PCRE2 syntax, except that `\s` is Unicode's White_Space. Each stage cuts the pieces of the one
// before it: a match is a piece, and so is what lies between two matches.
struct PreTokenizerRule {
  std::vector<std::string_view> names;  // values of `tokenizer.ggml.pre`
  std::vector<std::string_view> stages;
  bool ignore_merges = false;
  bool adds_bos = false;
};

std::span<const PreTokenizerRule> PreTokenizerRules();

}  // namespace pith
