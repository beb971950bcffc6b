#include "text/vocabulary_tokenizer.h"

#include <limits>
#include <utility>

#include "base/fail.h"

namespace pith {

VocabularyTokenizer::VocabularyTokenizer(Vocabulary vocabulary)
    : vocabulary_(std::move(vocabulary)),
      special_tokens_(vocabulary_),
      pieces_(vocabulary_.texts.size()) {}

bool VocabularyTokenizer::IsSpecial(Token token) const {
  const TokenType type = vocabulary_.types[token];
  return type == TokenType::kControl || type == TokenType::kUnknown;
}

bool VocabularyTokenizer::IsEndOfGeneration(Token token) const {
  return token >= 0 && token < n_vocab() && vocabulary_.ends_generation[token];
}

std::string VocabularyTokenizer::Piece(Token token, bool special) const {
  if (token < 0 || token >= n_vocab()) {
    Fail(ErrorCode::kInvalidArgument, "token {} is not in the vocabulary of {} tokens", token,
         n_vocab());
  }
  if (IsSpecial(token)) return special ? vocabulary_.texts[token] : std::string();
  return pieces_[token];
}

std::vector<Token> VocabularyTokenizer::Encode(std::string_view text, bool parse_special) const {
  const TextRange all{0, text.size()};
  return Encode(text, std::span<const TextRange>(&all, parse_special ? 1 : 0));
}

std::vector<Token> VocabularyTokenizer::Encode(std::span<const TextSegment> segments) const {
  std::string text;
  std::vector<TextRange> markup;
  for (const TextSegment& segment : segments) {
    const size_t begin = text.size();
    text += segment.text;
    if (!segment.markup || segment.text.empty()) continue;
    if (!markup.empty() && markup.back().end == begin) {
      markup.back().end = text.size();
    } else {
      markup.push_back({begin, text.size()});
    }
  }
  return Encode(text, markup);
}

std::vector<Token> VocabularyTokenizer::Encode(std::string_view text,
                                               std::span<const TextRange> markup) const {
  constexpr size_t kLongest = size_t{1} << 30;  // symbols are numbered in 32 bits
  if (text.size() > kLongest) {
    Fail(ErrorCode::kInvalidArgument, "a text of {} bytes is too long, expected at most {}",
         text.size(), kLongest);
  }
  std::vector<Token> tokens;
  bool after_special = true;
  for (const Fragment& fragment : special_tokens_.Partition(text, markup)) {
    if (fragment.token >= 0) {
      tokens.push_back(fragment.token);
    } else {
      const TextRange range = fragment.range;
      EncodeText(text.substr(range.begin, range.end - range.begin), after_special, tokens);
    }
    after_special = fragment.token >= 0;
  }
  return tokens;
}

int ByteOfName(std::string_view name) {
  if (name.size() != 6 || !name.starts_with("<0x") || name.back() != '>') return -1;
  int byte = 0;
  for (char c : name.substr(3, 2)) {
    byte *= 16;
    if (c >= '0' && c <= '9') {
      byte += c - '0';
    } else if (c >= 'A' && c <= 'F') {
      byte += c - 'A' + 10;
    } else if (c >= 'a' && c <= 'f') {
      byte += c - 'a' + 10;
    } else {
      return -1;
    }
  }
  return byte;
}

}  // namespace pith
