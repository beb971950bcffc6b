// Cuts text into the words within which byte-level BPE merges.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace pith {

// A pre-tokenizer as `tokenizer.ggml.pre` names it. Immutable, safe to share between threads.
class PreTokenizer {
 public:
  // Throws Error(kUnsupported) that lists the known names.
  explicit PreTokenizer(std::string_view name);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;

  // Pieces of `text` in order, none empty; together they are the text. A byte that is not UTF-8
  // counts as U+FFFD. Time is linear in the text, whatever it holds.
  std::vector<std::string_view> Split(std::string_view text) const;

  bool ignore_merges() const;  // a word that is in the vocabulary becomes that token at once
  bool adds_bos() const;       // where the file does not say

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

std::vector<std::string_view> PreTokenizerNames();

// PreTokenizer(name).Split(text), for tests.
std::vector<std::string_view> PreTokenize(std::string_view name, std::string_view text);

}  // namespace pith
