// Vocabularies as GGUF files, whole or spoilt.
#pragma once

#include <gguf.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/gguf_file.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"
#include "tools/gguf_bytes.h"
#include "tools/temp_folder.h"

namespace pith::testing {

// A vocabulary as a GGUF file whose keys can be left out or changed one by one.
class GgufOf {
 public:
  explicit GgufOf(const Vocabulary& vocabulary) {
    Text("tokenizer.ggml.model", vocabulary.model);
    if (vocabulary.model == "gpt2") Text("tokenizer.ggml.pre", vocabulary.pre);
    Strings("tokenizer.ggml.tokens", vocabulary.texts);
    std::vector<int32_t> types;
    for (TokenType type : vocabulary.types) types.push_back(static_cast<int32_t>(type));
    Array("tokenizer.ggml.token_type", GGUF_TYPE_INT32, types);
    if (vocabulary.model == "gpt2") Strings("tokenizer.ggml.merges", vocabulary.merges);
    if (vocabulary.model == "llama") {
      Array("tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, vocabulary.scores);
    }
    if (vocabulary.bos >= 0) Id("tokenizer.ggml.bos_token_id", vocabulary.bos);
    if (vocabulary.eos >= 0) Id("tokenizer.ggml.eos_token_id", vocabulary.eos);
  }

  void Text(const std::string& key, std::string_view value) {
    values_[key] = GgufBytes().Text(key, value).bytes();
  }
  void Id(const std::string& key, uint32_t value) {
    values_[key] = GgufBytes().Value(key, GGUF_TYPE_UINT32, value).bytes();
  }
  void Bool(const std::string& key, bool value) {
    values_[key] = GgufBytes().Value(key, GGUF_TYPE_BOOL, static_cast<int8_t>(value)).bytes();
  }
  template <typename T>
  void Array(const std::string& key, uint32_t type, const std::vector<T>& elements) {
    GgufBytes bytes;
    bytes.ArrayHeader(key, type, elements.size());
    for (T element : elements) bytes.Put(element);
    values_[key] = bytes.bytes();
  }
  void Strings(const std::string& key, const std::vector<std::string>& strings) {
    GgufBytes bytes;
    bytes.ArrayHeader(key, GGUF_TYPE_STRING, strings.size());
    for (const std::string& text : strings) bytes.String(text);
    values_[key] = bytes.bytes();
  }
  void Remove(const std::string& key) { values_.erase(key); }

  std::string Bytes() const {
    GgufBytes bytes;
    bytes.Header(0, values_.size());
    for (const auto& [key, value] : values_) bytes.Raw(value);
    return bytes.Pad(32).bytes();
  }

  std::unique_ptr<Tokenizer> Make() const {
    const std::string bytes = Bytes();
    return MakeTokenizer(GgufFile::Parse(AsBytes(bytes), "small.gguf"));
  }

 private:
  std::map<std::string, std::string> values_;
};

}  // namespace pith::testing
