// Pieces of running text to measure on.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pith/text.h"

namespace pith {

struct TextPiece {
  int document = 0;
  int64_t begin = 0;           // first token of the document that is in `tokens`
  std::vector<Token> opening;  // BOS if the model expects one
  std::vector<Token> tokens;
};

// Cuts pieces from plain text, without a chat template.
class TextPieces {
 public:
  // `documents` are UTF-8.
  TextPieces(const Tokenizer& tokenizer, std::span<const std::string> documents, uint64_t seed);

  // Tokens of the longest document.
  int64_t longest() const;

  // Piece `index` of `length` tokens, the opening included, all from one document. Places are
  // spread as evenly as can be over all documents that are long enough, by steps of the golden
  // ratio from a seeded start, so that pieces overlap as little as they can.
  // Throws Error(kInvalidArgument) when no document is long enough.
  TextPiece Make(int index, int64_t length) const;

 private:
  bool has_bos_;
  Token bos_;
  uint64_t seed_;
  std::vector<std::vector<Token>> documents_;
};

}  // namespace pith
