// Texts that ask much of a tokenizer.
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "text/utf8.h"

namespace pith::testing {

// Characters of all planes, and often the ones that expressions look at.
inline std::string RandomUtf8(std::mt19937_64& random, size_t n_characters) {
  static const std::string kFavourites =
      " \t\n\r\n  '''sStTrReEvVmMlLdDabcXYZ019.,!?/\\<>|[](){}$+=^~`@#%&*-_:;";
  std::string text;
  for (size_t i = 0; i < n_characters; ++i) {
    const uint64_t kind = random() % 8;
    if (kind < 5) {
      text.push_back(kFavourites[random() % kFavourites.size()]);
      continue;
    }
    uint32_t character = 0xD800;
    while (character >= 0xD800 && character < 0xE000) {
      character = static_cast<uint32_t>(random() % (kind == 5   ? 0x800
                                                    : kind == 6 ? 0x10000
                                                                : 0x110000));
    }
    AppendUtf8(character, text);
  }
  return text;
}

inline std::string RandomBytes(std::mt19937_64& random, size_t n) {
  std::string bytes(n, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random() % 256);
  return bytes;
}

}  // namespace pith::testing
