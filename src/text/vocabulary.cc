#include "text/vocabulary.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "base/fail.h"
#include "base/printable.h"
#include "text/pretokenizer.h"

namespace pith {
namespace {

// Names by which models end a turn, a message or a text (read from llama.cpp, src/llama-vocab.cpp).
constexpr std::array<std::string_view, 30> kEndNames = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<eos>",
    "<end_of_utterance>",
    "<turn|>",
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
};

std::optional<Token> ReadId(const GgufFile& file, const char* key, int n_vocab) {
  const std::optional<int64_t> id = file.FindInt(key);
  if (!id) return std::nullopt;
  if (*id == std::numeric_limits<uint32_t>::max() || *id == -1) return -1;
  if (*id < 0 || *id >= n_vocab) {
    Fail(ErrorCode::kFormat, "{}: {} is {}, expected a token below {}", file.name(), key, *id,
         n_vocab);
  }
  return static_cast<Token>(*id);
}

void CheckLength(const GgufFile& file, const char* key, size_t found, size_t expected) {
  if (found != expected) {
    Fail(ErrorCode::kFormat, "{}: {} has {} elements, expected one for each of {} tokens",
         file.name(), key, found, expected);
  }
}

void ReadTypes(const GgufFile& file, Vocabulary& vocabulary) {
  const char* key = "tokenizer.ggml.token_type";
  vocabulary.types.assign(vocabulary.texts.size(), TokenType::kNormal);
  if (!file.Has(key)) return;
  const std::vector<int64_t> types = file.Ints(key);
  CheckLength(file, key, types.size(), vocabulary.texts.size());
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] < 0 || types[i] > 6) {
      Fail(ErrorCode::kFormat, "{}: token {} has type {}, expected 0 to 6", file.name(), i,
           types[i]);
    }
    vocabulary.types[i] = static_cast<TokenType>(types[i]);
  }
}

// Phi-3 drops white space after its special tokens; the file does not say so, only its name does.
bool IsPhi3(const GgufFile& file) {
  std::string name = file.FindString("general.name").value_or("");
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return name.find("phi-3") != std::string::npos || name.find("phi3") != std::string::npos;
}

}  // namespace

void MarkEndsOfGeneration(Vocabulary& vocabulary, const std::vector<Token>& ids) {
  vocabulary.ends_generation.assign(vocabulary.texts.size(), false);
  std::unordered_map<std::string_view, Token> found;
  for (Token id = 0; id < vocabulary.size(); ++id) {
    const std::string_view text = vocabulary.texts[id];
    if (std::find(kEndNames.begin(), kEndNames.end(), text) == kEndNames.end()) continue;
    found[text] = id;
    vocabulary.types[id] = TokenType::kControl;
    vocabulary.ends_generation[id] = true;
  }
  // In the harmony and Solar formats <|end|> closes one message of several.
  const bool calls = found.contains("<|call|>") || found.contains("<|calls|>");
  const bool returns = found.contains("<|return|>") || found.contains("<|flush|>");
  if (calls && returns && found.contains("<|end|>")) {
    vocabulary.ends_generation[found["<|end|>"]] = false;
    vocabulary.types[found["<|end|>"]] = TokenType::kUserDefined;
  }
  if (vocabulary.eos >= 0) vocabulary.ends_generation[vocabulary.eos] = true;
  for (Token id : ids) vocabulary.ends_generation[id] = true;
}

Vocabulary ReadVocabulary(const GgufFile& file) {
  Vocabulary vocabulary;
  vocabulary.model = file.String("tokenizer.ggml.model");
  if (vocabulary.model != "gpt2" && vocabulary.model != "llama") {
    Fail(ErrorCode::kUnsupported, "{}: tokenizer.ggml.model is '{}', expected 'gpt2' or 'llama'",
         file.name(), Printable(vocabulary.model));
  }
  vocabulary.texts = file.Strings("tokenizer.ggml.tokens");
  if (vocabulary.texts.empty() ||
      vocabulary.texts.size() > size_t{std::numeric_limits<int32_t>::max() / 4}) {
    Fail(ErrorCode::kFormat, "{}: a vocabulary of {} tokens cannot be used", file.name(),
         vocabulary.texts.size());
  }
  ReadTypes(file, vocabulary);
  const int n_vocab = vocabulary.size();
  if (vocabulary.model == "gpt2") {
    vocabulary.pre = file.FindString("tokenizer.ggml.pre").value_or("default");
    vocabulary.merges = file.Strings("tokenizer.ggml.merges");
    vocabulary.add_bos = PreTokenizer(vocabulary.pre).adds_bos();
  } else {
    vocabulary.scores = file.Floats("tokenizer.ggml.scores");
    CheckLength(file, "tokenizer.ggml.scores", vocabulary.scores.size(), vocabulary.texts.size());
    vocabulary.add_bos = true;
    vocabulary.add_space_prefix = true;
    // What SentencePiece gives its first tokens unless told otherwise.
    if (n_vocab > 2) {
      vocabulary.bos = 1;
      vocabulary.eos = 2;
    }
  }
  vocabulary.bos = ReadId(file, "tokenizer.ggml.bos_token_id", n_vocab).value_or(vocabulary.bos);
  vocabulary.eos = ReadId(file, "tokenizer.ggml.eos_token_id", n_vocab).value_or(vocabulary.eos);
  vocabulary.add_bos = file.FindBool("tokenizer.ggml.add_bos_token").value_or(vocabulary.add_bos);
  if (vocabulary.model == "llama") {
    vocabulary.add_space_prefix =
        file.FindBool("tokenizer.ggml.add_space_prefix").value_or(vocabulary.add_space_prefix);
  }
  if (vocabulary.add_bos && vocabulary.bos < 0) {
    Fail(ErrorCode::kFormat, "{}: the tokenizer asks for a BOS token but names none", file.name());
  }
  vocabulary.strips_after_special = IsPhi3(file);
  std::vector<Token> ends;
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    const Token id = ReadId(file, key, n_vocab).value_or(-1);
    if (id >= 0) ends.push_back(id);
  }
  MarkEndsOfGeneration(vocabulary, ends);
  return vocabulary;
}

}  // namespace pith
