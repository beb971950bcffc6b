// Reading `tokenizer.ggml.*` from GGUF, whole and broken.
#include "text/vocabulary.h"

#include <gtest/gtest.h>

#include <functional>

#include "text/small_vocabulary.h"
#include "text/tokenizer.h"
#include "text/vocabulary_gguf.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

using testing::ExpectError;
using testing::GgufOf;

GgufOf Bpe() { return GgufOf(testing::SmallByteLevel("gpt-2")); }
GgufOf Spm() { return GgufOf(testing::SmallSentencePiece()); }

TEST(ReadVocabulary, GivesTheTokenizerThatWasWritten) {
  for (const Vocabulary& vocabulary :
       {testing::SmallByteLevel("smollm"), testing::SmallSentencePiece()}) {
    Vocabulary copy = vocabulary;
    const auto expected = MakeTokenizer(std::move(copy));
    const auto read = GgufOf(vocabulary).Make();
    const std::string_view text = "the hello world 1234 <u> \xC3\xA9";
    EXPECT_EQ(read->Encode(text), expected->Encode(text));
    EXPECT_EQ(read->n_vocab(), vocabulary.size());
    EXPECT_EQ(read->bos(), vocabulary.bos);
    EXPECT_EQ(read->eos(), vocabulary.eos);
    EXPECT_EQ(read->add_bos(), vocabulary.model == "llama");
    EXPECT_TRUE(read->IsEndOfGeneration(vocabulary.eos));
  }
}

TEST(ReadVocabulary, DefaultsOfTheModel) {
  GgufOf spm = Spm();
  spm.Remove("tokenizer.ggml.bos_token_id");
  spm.Remove("tokenizer.ggml.eos_token_id");
  EXPECT_EQ(spm.Make()->bos(), 1);
  EXPECT_EQ(spm.Make()->eos(), 2);
  spm.Bool("tokenizer.ggml.add_bos_token", false);
  spm.Bool("tokenizer.ggml.add_space_prefix", false);
  EXPECT_FALSE(spm.Make()->add_bos());
  EXPECT_EQ(spm.Make()->Encode("the"), spm.Make()->Encode("the", true));
  EXPECT_EQ(spm.Make()->Piece(spm.Make()->Encode("the")[0]), "t");

  GgufOf bpe = Bpe();
  bpe.Text("tokenizer.ggml.pre", "llama-bpe");
  EXPECT_TRUE(bpe.Make()->add_bos());
  bpe.Bool("tokenizer.ggml.add_bos_token", false);
  EXPECT_FALSE(bpe.Make()->add_bos());
  bpe.Remove("tokenizer.ggml.bos_token_id");
  bpe.Remove("tokenizer.ggml.eos_token_id");
  EXPECT_EQ(bpe.Make()->bos(), -1);
  EXPECT_EQ(bpe.Make()->eos(), -1);
  bpe.Remove("tokenizer.ggml.token_type");
  EXPECT_EQ(bpe.Make()->Encode("<|s|>", true).size(), 5u) << "without types nothing is special";
  bpe.Id("tokenizer.ggml.eot_token_id", 70);
  EXPECT_TRUE(bpe.Make()->IsEndOfGeneration(70));
}

TEST(ReadVocabulary, NamesPhi3AsTheFileDoes) {
  GgufOf bpe = Bpe();
  EXPECT_EQ(bpe.Make()->Encode("<|s|> x", true).size(), 3u);
  bpe.Text("general.name", "Phi-3 Mini");
  EXPECT_EQ(bpe.Make()->Encode("<|s|> x", true).size(), 2u);
}

TEST(ReadVocabulary, RefusesWhatDoesNotFit) {
  struct Case {
    ErrorCode code;
    std::string words;
    std::function<void(GgufOf&)> spoil;
    bool spm = false;
  };
  const std::vector<Case> cases = {
      {ErrorCode::kFormat, "tokenizer.ggml.model",
       [](GgufOf& g) { g.Remove("tokenizer.ggml.model"); }},
      {ErrorCode::kUnsupported, "'gpt2' or 'llama'",
       [](GgufOf& g) { g.Text("tokenizer.ggml.model", "bert\n"); }},
      {ErrorCode::kUnsupported, "unknown pre-tokenizer 'klingon'",
       [](GgufOf& g) { g.Text("tokenizer.ggml.pre", "klingon"); }},
      {ErrorCode::kUnsupported, "llama-bpe", [](GgufOf& g) { g.Text("tokenizer.ggml.pre", ""); }},
      {ErrorCode::kFormat, "tokenizer.ggml.tokens",
       [](GgufOf& g) { g.Remove("tokenizer.ggml.tokens"); }},
      {ErrorCode::kFormat, "0 tokens", [](GgufOf& g) { g.Strings("tokenizer.ggml.tokens", {}); }},
      {ErrorCode::kFormat, "tokenizer.ggml.tokens",
       [](GgufOf& g) { g.Id("tokenizer.ggml.tokens", 3); }},
      {ErrorCode::kFormat, "token_type has 2 elements",
       [](GgufOf& g) {
         g.Array<int32_t>("tokenizer.ggml.token_type", GGUF_TYPE_INT32, {1, 1});
       }},
      {ErrorCode::kFormat, "has type 7",
       [](GgufOf& g) {
         const int n = testing::SmallByteLevel("gpt-2").size();
         g.Array("tokenizer.ggml.token_type", GGUF_TYPE_INT32, std::vector<int32_t>(n, 7));
       }},
      {ErrorCode::kFormat, "tokenizer.ggml.merges",
       [](GgufOf& g) { g.Remove("tokenizer.ggml.merges"); }},
      {ErrorCode::kFormat, "merge 0 is 'ab'",
       [](GgufOf& g) { g.Strings("tokenizer.ggml.merges", {"ab"}); }},
      {ErrorCode::kFormat, "merge 1 is 'a '",
       [](GgufOf& g) {
         g.Strings("tokenizer.ggml.merges", {"a b", "a "});
       }},
      {ErrorCode::kFormat, "merge 0 is ''",
       [](GgufOf& g) { g.Strings("tokenizer.ggml.merges", {""}); }},
      {ErrorCode::kFormat, "bos_token_id is 9999",
       [](GgufOf& g) { g.Id("tokenizer.ggml.bos_token_id", 9999); }},
      {ErrorCode::kFormat, "eot_token_id is 9999",
       [](GgufOf& g) { g.Id("tokenizer.ggml.eot_token_id", 9999); }},
      {ErrorCode::kFormat, "asks for a BOS token",
       [](GgufOf& g) {
         g.Remove("tokenizer.ggml.bos_token_id");
         g.Bool("tokenizer.ggml.add_bos_token", true);
       }},
      {ErrorCode::kFormat, "no token for the byte",
       [](GgufOf& g) {
         g.Strings("tokenizer.ggml.tokens", {"a", "b", "c"});
         g.Remove("tokenizer.ggml.token_type");
         g.Remove("tokenizer.ggml.bos_token_id");
         g.Remove("tokenizer.ggml.eos_token_id");
       }},
      {ErrorCode::kFormat, "tokenizer.ggml.scores",
       [](GgufOf& g) { g.Remove("tokenizer.ggml.scores"); }, true},
      {ErrorCode::kFormat, "scores has 1 elements",
       [](GgufOf& g) { g.Array<float>("tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, {1.0f}); }, true},
  };
  for (const Case& c : cases) {
    GgufOf gguf = c.spm ? Spm() : Bpe();
    c.spoil(gguf);
    SCOPED_TRACE(c.words);
    ExpectError(c.code, c.words, [&] { gguf.Make(); });
  }
}

TEST(ReadVocabulary, OddTokensDoNoHarm) {
  Vocabulary vocabulary = testing::SmallByteLevel("gpt-2");
  for (const char* text : {"", "", "same", "same", "\xFF\xFE", "\xE6\x97\xA5", "<0x41>"}) {
    testing::AddToken(vocabulary, text, TokenType::kNormal);
  }
  testing::AddToken(vocabulary, "", TokenType::kControl);
  vocabulary.merges.emplace_back("\xE6\x97\xA5 a");
  vocabulary.merges.emplace_back(vocabulary.merges[0]);
  const auto tokenizer = GgufOf(vocabulary).Make();
  for (Token token = 0; token < tokenizer->n_vocab(); ++token) tokenizer->Piece(token, true);
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode("same \xE6\x97\xA5", true)), "same \xE6\x97\xA5");
}

}  // namespace
}  // namespace pith
