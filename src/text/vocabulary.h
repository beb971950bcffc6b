// What a GGUF file says of its tokens, checked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/gguf_file.h"
#include "pith/text.h"

namespace pith {

enum class TokenType : uint8_t {  // values of `tokenizer.ggml.token_type`
  kUndefined = 0,
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

struct Vocabulary {
  std::string model;                // `tokenizer.ggml.model`: "gpt2" or "llama"
  std::string pre;                  // `tokenizer.ggml.pre`, of "gpt2" only
  std::vector<std::string> texts;   // [n_vocab], as in the file: byte-mapped or with U+2581
  std::vector<TokenType> types;     // [n_vocab]
  std::vector<float> scores;        // [n_vocab], of "llama" only
  std::vector<std::string> merges;  // "left right", best first, of "gpt2" only
  Token bos = -1;
  Token eos = -1;
  std::vector<bool> ends_generation;  // [n_vocab]
  bool add_bos = false;
  bool add_space_prefix = false;      // of "llama" only
  bool strips_after_special = false;  // white space after a special token is dropped (Phi-3)

  int size() const { return static_cast<int>(texts.size()); }
};

// Throws Error(kFormat) when arrays do not fit together or an id is out of range, and
// Error(kUnsupported) for a tokenizer model or pre-tokenizer that is not known.
Vocabulary ReadVocabulary(const GgufFile& file);

// Sets `ends_generation` from `eos`, the ids given and the names that models use, and makes tokens
// of such names control tokens.
void MarkEndsOfGeneration(Vocabulary& vocabulary, const std::vector<Token>& ids = {});

}  // namespace pith
