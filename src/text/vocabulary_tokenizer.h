// What both kinds of tokenizer share: special tokens, pieces, ids.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pith/text.h"
#include "text/special_tokens.h"
#include "text/vocabulary.h"

namespace pith {

class VocabularyTokenizer : public Tokenizer {
 public:
  explicit VocabularyTokenizer(Vocabulary vocabulary);
  VocabularyTokenizer(const VocabularyTokenizer&) = delete;
  VocabularyTokenizer& operator=(const VocabularyTokenizer&) = delete;

  std::vector<Token> Encode(std::string_view text, bool parse_special) const final;
  std::vector<Token> Encode(std::span<const TextSegment> segments) const final;
  std::string Piece(Token token, bool special) const final;

  int n_vocab() const final { return vocabulary_.size(); }
  Token bos() const final { return vocabulary_.bos; }
  Token eos() const final { return vocabulary_.eos; }
  bool add_bos() const final { return vocabulary_.add_bos; }
  bool IsEndOfGeneration(Token token) const final;

 protected:
  // Appends the tokens of text without special tokens. `after_special`: at the start, or right
  // behind a special token.
  virtual void EncodeText(std::string_view text, bool after_special,
                          std::vector<Token>& out) const = 0;

  const Vocabulary& vocabulary() const { return vocabulary_; }
  bool IsSpecial(Token token) const;  // control or unknown
  void SetPiece(Token token, std::string bytes) { pieces_[token] = std::move(bytes); }

 private:
  std::vector<Token> Encode(std::string_view text, std::span<const TextRange> markup) const;

  Vocabulary vocabulary_;
  SpecialTokens special_tokens_;
  std::vector<std::string> pieces_;  // [n_vocab], what each token stands for
};

// The byte that a name like "<0x0A>" stands for, -1 if it is no such name.
int ByteOfName(std::string_view name);

}  // namespace pith
