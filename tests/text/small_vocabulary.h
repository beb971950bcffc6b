// Vocabularies small enough to know by heart.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/utf8.h"
#include "text/vocabulary.h"

namespace pith::testing {

// GPT-2's visible form of bytes.
inline std::string Visible(std::string_view bytes) {
  std::string out;
  for (char c : bytes) {
    const auto byte = static_cast<uint8_t>(c);
    uint32_t next = 0x100;
    uint32_t character = byte;
    for (int b = 0; b <= byte; ++b) {
      const bool visible = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      if (b == byte && !visible) character = next;
      if (!visible) ++next;
    }
    AppendUtf8(character, out);
  }
  return out;
}

inline void AddToken(Vocabulary& vocabulary, std::string text, TokenType type, float score = 0) {
  vocabulary.texts.push_back(std::move(text));
  vocabulary.types.push_back(type);
  vocabulary.scores.push_back(score);
}

// Tokens 0 to 255 are the bytes; then come the merges, then <|s|>, <|e|> (control) and <u> (user).
inline Vocabulary SmallByteLevel(std::string_view pre) {
  Vocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = pre;
  for (int byte = 0; byte < 256; ++byte) {
    AddToken(vocabulary, Visible(std::string(1, static_cast<char>(byte))), TokenType::kNormal);
  }
  const std::vector<std::pair<std::string, std::string>> merges = {
      {"h", "e"},   {"l", "l"},    {"he", "ll"}, {" ", "w"},   {"o", "r"},
      {" w", "or"}, {"l", "d"},    {"a", "a"},   {"aa", "aa"}, {"\xC3", "\xA9"},
      {" ", " "},   {"  ", "  "},  {"1", "2"},   {"12", "3"},  {"\n", "\n"},
      {"'", "s"},   {"hell", "o"}, {"b", "a"},   {"ba", "b"},  {"aaaa", "aaaa"}};
  for (const auto& [left, right] : merges) {
    vocabulary.merges.push_back(Visible(left) + " " + Visible(right));
    AddToken(vocabulary, Visible(left + right), TokenType::kNormal);
  }
  AddToken(vocabulary, "<|s|>", TokenType::kControl);
  AddToken(vocabulary, "<|e|>", TokenType::kControl);
  AddToken(vocabulary, "<u>", TokenType::kUserDefined);
  vocabulary.bos = vocabulary.size() - 3;
  vocabulary.eos = vocabulary.size() - 2;
  MarkEndsOfGeneration(vocabulary);
  return vocabulary;
}

// <unk>, <s>, </s>, 256 byte tokens, some words with scores, <u> (user).
inline Vocabulary SmallSentencePiece() {
  constexpr const char* kHex = "0123456789ABCDEF";
  Vocabulary vocabulary;
  vocabulary.model = "llama";
  AddToken(vocabulary, "<unk>", TokenType::kUnknown);
  AddToken(vocabulary, "<s>", TokenType::kControl);
  AddToken(vocabulary, "</s>", TokenType::kControl);
  for (int byte = 0; byte < 256; ++byte) {
    AddToken(vocabulary, std::string("<0x") + kHex[byte / 16] + kHex[byte % 16] + ">",
             TokenType::kByte);
  }
  float score = -1;
  for (const char* text : {"\xE2\x96\x81t",
                           "he",
                           "\xE2\x96\x81the",
                           "in",
                           "er",
                           "ing",
                           "\xE2\x96\x81",
                           "t",
                           "h",
                           "e",
                           "i",
                           "n",
                           "g",
                           "r",
                           "s",
                           "<",
                           "/",
                           ">",
                           "</",
                           "s>",
                           "\xC3\xA9",
                           "\xE2\x96\x81\xE2\x96\x81"}) {
    AddToken(vocabulary, text, TokenType::kNormal, score);
    score -= 1;
  }
  AddToken(vocabulary, "<u>", TokenType::kUserDefined);
  vocabulary.bos = 1;
  vocabulary.eos = 2;
  vocabulary.add_bos = true;
  vocabulary.add_space_prefix = true;
  MarkEndsOfGeneration(vocabulary);
  return vocabulary;
}

}  // namespace pith::testing
