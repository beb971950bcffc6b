#include "text/tokenizer.h"

#include <utility>

#include "base/fail.h"
#include "base/printable.h"
#include "text/byte_level_bpe.h"
#include "text/sentencepiece.h"
#include "text/utf8.h"

namespace pith {

std::unique_ptr<Tokenizer> MakeTokenizer(Vocabulary vocabulary) {
  if (vocabulary.model == "gpt2") return std::make_unique<ByteLevelBpe>(std::move(vocabulary));
  if (vocabulary.model == "llama") return std::make_unique<SentencePiece>(std::move(vocabulary));
  Fail(ErrorCode::kUnsupported, "the tokenizer model is '{}', expected 'gpt2' or 'llama'",
       Printable(vocabulary.model));
}

std::unique_ptr<Tokenizer> MakeTokenizer(const GgufFile& file) {
  return MakeTokenizer(ReadVocabulary(file));
}

std::string Tokenizer::Decode(std::span<const Token> tokens, bool special) const {
  std::string bytes;
  for (Token token : tokens) bytes += Piece(token, special);
  std::string text;
  DrainUtf8(bytes, true, text);
  return text;
}

std::string StreamDecoder::Push(Token token) {
  pending_ += tokenizer_.Piece(token, special_);
  std::string text;
  DrainUtf8(pending_, false, text);
  return text;
}

std::string StreamDecoder::Finish() {
  std::string text;
  DrainUtf8(pending_, true, text);
  return text;
}

}  // namespace pith
