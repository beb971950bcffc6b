// Stepping through bytes that may or may not be UTF-8 (Unicode 15, section 3.9, table 3-7).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace pith {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

enum class Utf8Kind { kValid, kInvalid, kIncomplete };

// What begins at `text[0]`. kInvalid: `length` bytes are the maximal part of an ill-formed
// sequence. kIncomplete: all `length` bytes of the text begin a character that more bytes could
// complete.
struct Utf8Step {
  Utf8Kind kind = Utf8Kind::kValid;
  size_t length = 0;
};

// `text` must not be empty.
Utf8Step NextUtf8(std::string_view text);

// Bytes before the first that is not part of a well-formed character.
size_t ValidUtf8Prefix(std::string_view text);

void AppendUtf8(uint32_t code_point, std::string& out);

// Moves whole characters from `pending` to the end of `out`, ill-formed parts as U+FFFD. What could
// still become a character stays (at most 3 bytes), unless `last`.
void DrainUtf8(std::string& pending, bool last, std::string& out);

}  // namespace pith
