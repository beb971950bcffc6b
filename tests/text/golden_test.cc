// Tokens of the default model as llama.cpp gives them.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "text/tokenizer.h"
#include "text/vocabulary.h"

namespace pith {
namespace {

nlohmann::json ReadJson(const std::string& name) {
  std::ifstream in(std::string(PITH_TEST_DATA) + "/" + name);
  return nlohmann::json::parse(in);
}

class GoldenTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    vocabulary_ = new Vocabulary(ReadVocabulary(GgufFile::Open(PITH_TEST_MODEL)));
  }
  static void TearDownTestSuite() { delete vocabulary_; }

  static Vocabulary* vocabulary_;
};
Vocabulary* GoldenTest::vocabulary_ = nullptr;

TEST_F(GoldenTest, DefaultModel) {
  const auto tokenizer = MakeTokenizer(*vocabulary_);
  const nlohmann::json golden = ReadJson("tokens.json");
  ASSERT_GT(golden.size(), 30u);
  for (const auto& entry : golden) {
    const auto text = entry["text"].get<std::string>();
    EXPECT_EQ(tokenizer->Encode(text), entry["plain"].get<std::vector<Token>>()) << text;
    EXPECT_EQ(tokenizer->Encode(text, true), entry["special"].get<std::vector<Token>>()) << text;
    EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text)), text);
    EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text, true), true), text);
  }
}

TEST_F(GoldenTest, DefaultModelsIds) {
  const auto tokenizer = MakeTokenizer(*vocabulary_);
  EXPECT_EQ(tokenizer->n_vocab(), 49152);
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 2);
  EXPECT_FALSE(tokenizer->add_bos());
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(0));
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(2));
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(1));
}

// The default model's vocabulary under every other pre-tokenizer; see make_pretokenizer_golden.py.
TEST_F(GoldenTest, EveryPreTokenizer) {
  const nlohmann::json golden = ReadJson("pretokenizers.json");
  const auto texts = golden["texts"].get<std::vector<std::string>>();
  ASSERT_GT(texts.size(), 30u);
  ASSERT_GT(golden["tokens"].size(), 20u);
  for (const auto& [name, rows] : golden["tokens"].items()) {
    Vocabulary vocabulary = *vocabulary_;
    vocabulary.pre = name;
    const auto tokenizer = MakeTokenizer(std::move(vocabulary));
    ASSERT_EQ(rows.size(), texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(tokenizer->Encode(texts[i]), rows[i].get<std::vector<Token>>())
          << name << ": " << texts[i];
    }
  }
}

TEST_F(GoldenTest, EssaysComeBack) {
  const auto tokenizer = MakeTokenizer(*vocabulary_);
  size_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(PITH_TEST_TEXTS "/essays")) {
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text)), text) << entry.path();
    bytes += text.size();
  }
  EXPECT_GT(bytes, 100'000u);
}

}  // namespace
}  // namespace pith
