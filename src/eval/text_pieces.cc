#include "eval/text_pieces.h"

#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "eval/seeded_random.h"

namespace pith {

TextPieces::TextPieces(const Tokenizer& tokenizer, std::span<const std::string> documents,
                       uint64_t seed)
    : has_bos_(tokenizer.add_bos() && tokenizer.bos() >= 0), bos_(tokenizer.bos()), seed_(seed) {
  for (const std::string& document : documents) documents_.push_back(tokenizer.Encode(document));
}

int64_t TextPieces::longest() const {
  size_t tokens = 0;
  for (const auto& document : documents_) tokens = std::max(tokens, document.size());
  return static_cast<int64_t>(tokens);
}

TextPiece TextPieces::Make(int index, int64_t length) const {
  const int64_t n_tokens = length - (has_bos_ ? 1 : 0);
  // Places in a document of so many tokens where a piece may begin.
  const auto places = [&](const std::vector<Token>& document) {
    return std::max<int64_t>(0, static_cast<int64_t>(document.size()) - n_tokens + 1);
  };
  int64_t n_places = 0;
  for (const auto& document : documents_) n_places += places(document);
  if (n_tokens < 1 || n_places == 0) {
    Fail(ErrorCode::kInvalidArgument,
         "no text holds the {} tokens of a piece, the longest has {}; expected longer texts or a "
         "length of 2 or more that is shorter",
         n_tokens, longest());
  }
  constexpr double kGoldenRatio = 0.6180339887498949;
  const double turns = SeededRandom(seed_).Unit() + index * kGoldenRatio;
  auto place = static_cast<int64_t>((turns - std::floor(turns)) * static_cast<double>(n_places));
  TextPiece piece;
  while (place >= places(documents_[static_cast<size_t>(piece.document)])) {
    place -= places(documents_[static_cast<size_t>(piece.document++)]);
  }
  piece.begin = place;
  if (has_bos_) piece.opening.push_back(bos_);
  const auto first = documents_[static_cast<size_t>(piece.document)].begin() + place;
  piece.tokens.assign(first, first + n_tokens);
  return piece;
}

}  // namespace pith
