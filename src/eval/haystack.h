// Running text to hide something in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pith {

// Where sentences begin in text whose spaces are single ones: 0 and after every full stop,
// exclamation or question mark (closing quotes and brackets may follow it), unless a lower-case
// letter goes on.
std::vector<size_t> SentenceStarts(std::string_view text);

// The largest cut of `text` at most `bytes` long: before a space, or where none is near, between
// two characters of UTF-8.
size_t WordCut(std::string_view text, size_t bytes);

class Haystack {
 public:
  // Puts documents (UTF-8) one after another and, as RULER does, every run of white space to one
  // space. Throws Error(kInvalidArgument) when nothing is left.
  explicit Haystack(std::span<const std::string> documents);

  // At least `bytes` from the start of sentence `sentence` modulo n_sentences(), whole characters.
  // After the last document comes the first one again.
  std::string From(uint64_t sentence, size_t bytes) const;

  const std::string& text() const { return text_; }
  size_t n_sentences() const { return starts_.size(); }
  uint64_t hash() const;  // of all of the text

 private:
  std::string text_;
  std::vector<size_t> starts_;
};

}  // namespace pith
