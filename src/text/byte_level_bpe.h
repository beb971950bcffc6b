// Byte-level byte-pair encoding (Radford et al. 2019; Sennrich et al., arXiv 1508.07909).
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/merge_table.h"
#include "text/pretokenizer.h"
#include "text/vocabulary_tokenizer.h"

namespace pith {

class ByteLevelBpe final : public VocabularyTokenizer {
 public:
  // Throws Error(kFormat) for merges that are none and a vocabulary without the ASCII characters.
  explicit ByteLevelBpe(Vocabulary vocabulary);

 protected:
  void EncodeText(std::string_view text, bool after_special,
                  std::vector<Token>& out) const override;

 private:
  struct Workspace;

  int32_t SymbolOf(std::string bytes);
  void ReadMerges();
  void EncodeWord(std::string_view word, Workspace& work, std::vector<Token>& out) const;
  void Emit(int32_t symbol, std::vector<Token>& out) const;
  std::string ReplaceUnknownBytes(std::string_view text) const;

  PreTokenizer pretokenizer_;
  // Symbols are what merging works on: tokens by their id, and above n_vocab what is no token.
  std::unordered_map<std::string, int32_t> symbols_;
  std::vector<std::string> extra_symbols_;  // bytes of symbol n_vocab + i
  std::array<int32_t, 256> byte_symbols_{};
  MergeTable merges_;
  bool has_all_bytes_ = true;
};

}  // namespace pith
