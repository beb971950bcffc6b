#include "eval/haystack.h"

#include <xxhash.h>

#include "base/fail.h"

namespace pith {
namespace {

constexpr std::string_view kSpaces = " \t\n\v\f\r";

bool EndsSentence(std::string_view text) {
  constexpr std::string_view kClosing[] = {"\"", "'", ")", "]", "\u201d", "\u2019", "\u00bb"};
  for (bool stripped = true; stripped;) {
    stripped = false;
    for (std::string_view mark : kClosing) {
      if (!text.ends_with(mark)) continue;
      text.remove_suffix(mark.size());
      stripped = true;
    }
  }
  return text.ends_with('.') || text.ends_with('!') || text.ends_with('?');
}

bool IsContinuationByte(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

}  // namespace

std::vector<size_t> SentenceStarts(std::string_view text) {
  std::vector<size_t> starts = {0};
  for (size_t at = 1; at < text.size(); ++at) {
    const bool goes_on = text[at] >= 'a' && text[at] <= 'z';
    if (text[at - 1] == ' ' && !goes_on && EndsSentence(text.substr(0, at - 1))) {
      starts.push_back(at);
    }
  }
  return starts;
}

size_t WordCut(std::string_view text, size_t bytes) {
  if (bytes >= text.size()) return text.size();
  constexpr size_t kLongestWord = 64;
  size_t space = bytes;
  while (space > 0 && bytes - space < kLongestWord && text[space] != ' ') --space;
  if (space == 0 || text[space] == ' ') return space;
  while (bytes > 0 && IsContinuationByte(text[bytes])) --bytes;
  return bytes;
}

Haystack::Haystack(std::span<const std::string> documents) {
  for (const std::string& document : documents) {
    size_t at = document.find_first_not_of(kSpaces);
    while (at != std::string::npos) {
      const size_t end = document.find_first_of(kSpaces, at);
      if (!text_.empty()) text_ += ' ';
      text_.append(document, at, end - at);
      at = document.find_first_not_of(kSpaces, end);
    }
  }
  if (text_.empty()) Fail(ErrorCode::kInvalidArgument, "the haystack is empty, expected text");
  starts_ = SentenceStarts(text_);
}

std::string Haystack::From(uint64_t sentence, size_t bytes) const {
  std::string text = text_.substr(starts_[sentence % starts_.size()]);
  while (text.size() < bytes) text += ' ' + text_;
  return text;
}

uint64_t Haystack::hash() const { return XXH3_64bits(text_.data(), text_.size()); }

}  // namespace pith
