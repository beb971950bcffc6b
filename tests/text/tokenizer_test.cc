// Byte-level BPE on a small vocabulary: merging, special tokens, every byte.
#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "text/pretokenizer.h"
#include "text/pretokenizer_rules.h"
#include "text/random_text.h"
#include "text/small_vocabulary.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

using testing::ExpectError;
using testing::RandomBytes;
using testing::RandomUtf8;
using testing::SmallByteLevel;
using testing::Visible;

std::vector<std::string> Pieces(const Tokenizer& tokenizer, const std::vector<Token>& tokens) {
  std::vector<std::string> pieces;
  for (Token token : tokens) pieces.push_back(tokenizer.Piece(token, true));
  return pieces;
}

std::string Join(const Tokenizer& tokenizer, const std::vector<Token>& tokens) {
  std::string text;
  for (const std::string& piece : Pieces(tokenizer, tokens)) text += piece;
  return text;
}

using Strings = std::vector<std::string>;

TEST(ByteLevelBpe, MergesByRankFromTheLeft) {
  const auto tokenizer = MakeTokenizer(SmallByteLevel("gpt-2"));
  const auto pieces = [&](std::string_view text) {
    return Pieces(*tokenizer, tokenizer->Encode(text));
  };
  EXPECT_EQ(pieces("hello world"), (Strings{"hello", " wor", "ld"}));
  EXPECT_EQ(pieces("aaa"), (Strings{"aa", "a"}));
  EXPECT_EQ(pieces("aaaaaaa"), (Strings{"aaaa", "aa", "a"}));
  EXPECT_EQ(pieces("baab"), (Strings{"b", "aa", "b"})) << "a+a ranks before b+a";
  EXPECT_EQ(pieces("babab"), (Strings{"ba", "bab"})) << "both b+a come before ba+b";
  EXPECT_EQ(pieces("h\xC3\xA9"), (Strings{"h", "\xC3\xA9"}));
  EXPECT_EQ(pieces("a's"), (Strings{"a", "'s"}));
  EXPECT_EQ(pieces("1234"), (Strings{"123", "4"}));
  EXPECT_EQ(pieces(""), Strings{});
}

TEST(ByteLevelBpe, WordsOfTheVocabularyAreTakenWholeWhereTheRuleSaysSo) {
  Vocabulary vocabulary = SmallByteLevel("llama-bpe");
  testing::AddToken(vocabulary, "zebra", TokenType::kNormal);
  testing::AddToken(vocabulary, "stop", TokenType::kControl);
  MarkEndsOfGeneration(vocabulary);
  const Token zebra = vocabulary.size() - 2;
  Vocabulary other = vocabulary;
  other.pre = "gpt-2";
  const auto whole = MakeTokenizer(vocabulary);
  EXPECT_EQ(whole->Encode("zebra"), std::vector<Token>{zebra});
  EXPECT_EQ(whole->Encode("stop").size(), 4u) << "control tokens are never text";
  EXPECT_EQ(MakeTokenizer(other)->Encode("zebra").size(), 5u);
}

TEST(ByteLevelBpe, MergeToNoTokenIsWrittenInBytes) {
  Vocabulary vocabulary = SmallByteLevel("gpt-2");
  vocabulary.merges.emplace_back("x y");
  const auto tokenizer = MakeTokenizer(vocabulary);
  EXPECT_EQ(tokenizer->Encode("xy"), (std::vector<Token>{'x', 'y'}));
}

TEST(ByteLevelBpe, AnyBytesComeBackWithEveryPreTokenizer) {
  std::mt19937_64 random(7);
  for (std::string_view name : PreTokenizerNames()) {
    const auto tokenizer = MakeTokenizer(SmallByteLevel(name));
    for (int i = 0; i < 40; ++i) {
      const std::string text = i % 3 ? RandomUtf8(random, 80) : RandomBytes(random, 120);
      EXPECT_EQ(Join(*tokenizer, tokenizer->Encode(text)), text) << name;
      EXPECT_EQ(Join(*tokenizer, tokenizer->Encode(text, true)), text) << name;
    }
  }
}

TEST(ByteLevelBpe, LongRunsTakeLinearTime) {
  // A quadratic step would take minutes or hours; the limit leaves room for sanitizers.
  const size_t n = 100'000;
  std::string mixed;
  for (size_t i = 0; i < n / 3; ++i)
    mixed +=
        "\xC3\x80"
        "A";
  for (const PreTokenizerRule& rule : PreTokenizerRules()) {
    const std::string_view name = rule.names.front();
    const auto tokenizer = MakeTokenizer(SmallByteLevel(name));
    const auto start = std::chrono::steady_clock::now();
    for (const std::string& text :
         {std::string(n, 'a'), std::string(n, ' ') + "x", std::string(n, '\n'), std::string(n, '7'),
          mixed, std::string(n, '\xFF')}) {
      EXPECT_EQ(Join(*tokenizer, tokenizer->Encode(text)).size(), text.size());
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    EXPECT_LT(seconds.count(), 30) << name;
  }
}

TEST(ByteLevelBpe, BytesWithoutTokenAreLeftOutOrReplaced) {
  Vocabulary vocabulary = SmallByteLevel("gpt-2");
  vocabulary.texts[0x01] = "[gone 1]";
  vocabulary.texts[0xFF] = "[gone 2]";
  const auto tokenizer = MakeTokenizer(vocabulary);
  EXPECT_EQ(Join(*tokenizer, tokenizer->Encode("a\x01"
                                               "b")),
            "ab");
  EXPECT_EQ(Join(*tokenizer, tokenizer->Encode("a\xFF"
                                               "b\xFE")),
            "a\xEF\xBF\xBD"
            "b\xFE");
}

class SpecialTokensTest : public ::testing::Test {
 protected:
  SpecialTokensTest() : vocabulary_(SmallByteLevel("gpt-2")) {
    start_ = vocabulary_.bos;
    end_ = vocabulary_.eos;
    user_ = end_ + 1;
    for (const char* text : {"<a>", "<a><b>", "b><c"}) {
      testing::AddToken(vocabulary_, text, TokenType::kControl);
    }
    MarkEndsOfGeneration(vocabulary_);
    tokenizer_ = MakeTokenizer(vocabulary_);
  }

  Vocabulary vocabulary_;
  std::unique_ptr<Tokenizer> tokenizer_;
  Token start_ = 0, end_ = 0, user_ = 0;
};

TEST_F(SpecialTokensTest, ControlOnlyWhenAskedUserDefinedAlways) {
  EXPECT_EQ(tokenizer_->Encode("<|s|>x<u><|e|>", true),
            (std::vector<Token>{start_, 'x', user_, end_}));
  const std::vector<Token> plain = tokenizer_->Encode("<|s|>x<u>");
  EXPECT_EQ(std::count(plain.begin(), plain.end(), start_), 0);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), user_), 1);
  EXPECT_EQ(Join(*tokenizer_, plain), "<|s|>x<u>");
}

TEST_F(SpecialTokensTest, LongerFirst) {
  const Token a = user_ + 1, ab = user_ + 2, bc = user_ + 3;
  EXPECT_EQ(tokenizer_->Encode("<a><a><b>", true), (std::vector<Token>{a, ab}));
  // Both "<a><b>" and "b><c" occur; the longer one is found first wherever it is.
  EXPECT_EQ(tokenizer_->Encode("<a><b><c>", true), (std::vector<Token>{ab, '<', 'c', '>'}));
  EXPECT_EQ(tokenizer_->Encode("<b><c>", true), (std::vector<Token>{'<', bc, '>'}));
}

TEST_F(SpecialTokensTest, PiecesOfControlTokensAreHiddenUnlessAsked) {
  EXPECT_EQ(tokenizer_->Piece(start_), "");
  EXPECT_EQ(tokenizer_->Piece(start_, true), "<|s|>");
  EXPECT_EQ(tokenizer_->Piece(user_), "<u>");
  const std::vector<Token> tokens = {start_, 'h', 'i', end_};
  EXPECT_EQ(tokenizer_->Decode(tokens), "hi");
  EXPECT_EQ(tokenizer_->Decode(tokens, true), "<|s|>hi<|e|>");
  ExpectError(ErrorCode::kInvalidArgument, "vocabulary", [&] { tokenizer_->Piece(-1); });
  ExpectError(ErrorCode::kInvalidArgument, "vocabulary",
              [&] { tokenizer_->Piece(tokenizer_->n_vocab()); });
}

TEST_F(SpecialTokensTest, SegmentsAreOneTextWithMarkupOnlyWhereItIs) {
  const auto encode = [&](std::vector<TextSegment> segments) {
    return tokenizer_->Encode(segments);
  };
  EXPECT_EQ(encode({{"<|s|>", true}, {"<|s|>", false}, {"<|e|>", true}}),
            (std::vector<Token>{start_, '<', '|', 's', '|', '>', end_}));
  // Neither half of a name is markup by itself, nor a name half of which is content.
  EXPECT_EQ(encode({{"<|", true}, {"s|>", true}}), std::vector<Token>{start_});
  EXPECT_EQ(encode({{"<|", true}, {"s|>", false}}), tokenizer_->Encode("<|s|>"));
  EXPECT_EQ(encode({{"<|s", false}, {"|>", true}}), tokenizer_->Encode("<|s|>"));
  // Text merges across the borders of segments.
  EXPECT_EQ(encode({{"he", true}, {"ll", false}, {"o wor", true}, {"ld", false}}),
            tokenizer_->Encode("hello world"));
  EXPECT_EQ(encode({}), std::vector<Token>{});
  EXPECT_EQ(encode({{"", true}, {"", false}}), std::vector<Token>{});
}

TEST_F(SpecialTokensTest, SpaceAfterThemIsDroppedForModelsThatWantIt) {
  vocabulary_.strips_after_special = true;
  const auto tokenizer = MakeTokenizer(vocabulary_);
  EXPECT_EQ(tokenizer->Encode("<|s|>\n x<|e|> \n", true), (std::vector<Token>{start_, 'x', end_}));
}

TEST(Tokenizer, EndsOfGenerationByNameAndId) {
  Vocabulary vocabulary = SmallByteLevel("gpt-2");
  for (const char* text : {"<|im_end|>", "<|im_start|>", "<|eot_id|>"}) {
    testing::AddToken(vocabulary, text, TokenType::kNormal);
  }
  MarkEndsOfGeneration(vocabulary, {65});
  const auto tokenizer = MakeTokenizer(vocabulary);
  const Token im_end = vocabulary.size() - 3;
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(tokenizer->eos()));
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(im_end));
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(im_end + 1));
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(im_end + 2));
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(65));
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(66));
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(-1));
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(vocabulary.size()));
  EXPECT_EQ(tokenizer->Encode("<|im_end|>", true), std::vector<Token>{im_end})
      << "such names make control tokens";
}

TEST(Tokenizer, EndIsNoEndWhereCallsAndReturnsAre) {
  Vocabulary vocabulary = SmallByteLevel("gpt-4o");
  for (const char* text : {"<|end|>", "<|return|>", "<|call|>"}) {
    testing::AddToken(vocabulary, text, TokenType::kControl);
  }
  MarkEndsOfGeneration(vocabulary);
  const int n = vocabulary.size();
  EXPECT_FALSE(vocabulary.ends_generation[n - 3]);
  EXPECT_TRUE(vocabulary.ends_generation[n - 2]);
  EXPECT_TRUE(vocabulary.ends_generation[n - 1]);
}

}  // namespace
}  // namespace pith
