// SentencePiece's BPE by scores (Kudo and Richardson, arXiv 1808.06226), as Llama 2 uses it.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/vocabulary_tokenizer.h"

namespace pith {

class SentencePiece final : public VocabularyTokenizer {
 public:
  // Throws Error(kFormat) for a vocabulary that cannot write every byte, and for misnamed bytes.
  explicit SentencePiece(Vocabulary vocabulary);

 protected:
  void EncodeText(std::string_view text, bool after_special,
                  std::vector<Token>& out) const override;

 private:
  std::unordered_map<std::string_view, Token> ids_;  // by the text in the vocabulary
  size_t longest_ = 0;                               // bytes of the longest token
  std::array<Token, 256> byte_tokens_{};
};

}  // namespace pith
