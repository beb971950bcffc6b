// Text to tokens and back, with every pre-tokenizer and both kinds of vocabulary; and vocabularies.
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz/seeds.h"
#include "pith/error.h"
#include "pith/text.h"
#include "text/pretokenizer_rules.h"
#include "text/small_vocabulary.h"
#include "text/tokenizer.h"
#include "text/vocabulary_gguf.h"

namespace {

using pith::Token;
using pith::Tokenizer;

void Require(bool holds, const char* what, std::string_view name) {
  if (holds) return;
  std::cerr << name << ": " << what << "\n";
  std::abort();
}

struct Subject {
  std::string_view name;
  std::unique_ptr<Tokenizer> tokenizer;
};

std::vector<Subject> MakeSubjects() {
  std::vector<Subject> subjects;
  for (const pith::PreTokenizerRule& rule : pith::PreTokenizerRules()) {
    const std::string_view name = rule.names.front();
    subjects.push_back({name, pith::MakeTokenizer(pith::testing::SmallByteLevel(name))});
  }
  pith::Vocabulary sentencepiece = pith::testing::SmallSentencePiece();
  sentencepiece.add_space_prefix = false;
  subjects.push_back({"sentencepiece", pith::MakeTokenizer(std::move(sentencepiece))});
  return subjects;
}

std::string Join(const Tokenizer& tokenizer, const std::vector<Token>& tokens) {
  std::string text;
  for (Token token : tokens) text += tokenizer.Piece(token, true);
  return text;
}

void CheckStreaming(const Subject& subject, const std::vector<Token>& tokens) {
  pith::StreamDecoder decoder(*subject.tokenizer);
  std::string streamed;
  for (Token token : tokens) streamed += decoder.Push(token);
  streamed += decoder.Finish();
  Require(streamed == subject.tokenizer->Decode(tokens), "streaming differs", subject.name);
}

// What is read of a file that was spoilt is either refused or usable.
void CheckVocabulary(const std::string& file) {
  try {
    const auto tokenizer =
        pith::MakeTokenizer(pith::GgufFile::Parse(pith::testing::AsBytes(file), "fuzz"));
    for (Token token = 0; token < tokenizer->n_vocab(); ++token) tokenizer->Piece(token);
    for (Token token : tokenizer->Encode("hello <|s|>  world\xFF 123\n", true)) {
      Require(token >= 0 && token < tokenizer->n_vocab(), "a token is out of range", "vocabulary");
    }
  } catch (const pith::Error& error) {
    Require(error.what()[0] != 0, "an error says nothing", "vocabulary");
  }
}

// The first two bytes choose a tokenizer and where content ends and markup begins.
void CheckText(const Subject& subject, std::string text, size_t cut) {
  const Tokenizer& tokenizer = *subject.tokenizer;
  if (subject.name == "sentencepiece") {
    for (size_t at; (at = text.find("\xE2\x96\x81")) != std::string::npos;) text.erase(at, 3);
  }
  const std::vector<Token> plain = tokenizer.Encode(text);
  Require(Join(tokenizer, plain) == text, "text is lost", subject.name);
  Require(Join(tokenizer, tokenizer.Encode(text, true)) == text, "markup is lost", subject.name);
  CheckStreaming(subject, plain);
  cut = std::min(cut, text.size());
  const std::vector<pith::TextSegment> segments = {{text.substr(0, cut), false},
                                                   {text.substr(cut), true}};
  Require(Join(tokenizer, tokenizer.Encode(segments)) == text, "segments are lost", subject.name);
}

void CheckChatSource(std::string_view source) {
  try {
    const auto chat = pith::ChatTemplate::FromSource(source);
    const std::vector<pith::ChatMessage> talk = {{"user", std::string(source)}};
    Require(!chat.Render(talk).empty(), "nothing is rendered", chat.name());
  } catch (const pith::Error& error) {
    Require(error.code() == pith::ErrorCode::kUnsupported, error.what(), "chat");
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  std::vector<std::string> seeds = {
      pith::testing::GgufOf(pith::testing::SmallByteLevel("gpt-2")).Bytes(),
      pith::testing::GgufOf(pith::testing::SmallSentencePiece()).Bytes()};
  for (char chosen = 0; chosen < 32; ++chosen) {
    seeds.push_back(std::string{chosen, '\5'} +
                    "Hello  world 's 123 \xE6\x97\xA5 ABCdef\n\n<|s|><u>'<|im_start|>system\nYou"
                    "<|im_end|>' [INST] <<SYS>>");
  }
  pith::testing::WriteSeeds(*argc, *argv, seeds);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<Subject> subjects = MakeSubjects();
  if (size < 2) return 0;
  if (data[0] == 'G') {
    CheckVocabulary(std::string(reinterpret_cast<const char*>(data), size));
    return 0;
  }
  const std::string text(reinterpret_cast<const char*>(data) + 2, size - 2);
  CheckText(subjects[data[0] % subjects.size()], text, data[1]);
  CheckChatSource(text);
  return 0;
}
