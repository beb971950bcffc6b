#include "text/pretokenizer.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "text/random_text.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

using Strings = std::vector<std::string>;

Strings Split(std::string_view name, std::string_view text) {
  Strings pieces;
  for (std::string_view piece : PreTokenize(name, text)) pieces.emplace_back(piece);
  return pieces;
}

// Worked out by hand from the expression each name stands for.
TEST(PreTokenizer, Gpt2) {
  EXPECT_EQ(Split("gpt-2", "I'm  3x1234 y.\n\n z"),
            (Strings{"I", "'m", " ", " 3", "x", "1234", " y", ".", "\n\n", " z"}));
  EXPECT_EQ(Split("gpt-2", "IT'S"), (Strings{"IT", "'", "S"}));
  EXPECT_EQ(Split("gpt-2", "a  "), (Strings{"a", "  "}));
}

TEST(PreTokenizer, SmolLmCutsDigitsFirst) {
  EXPECT_EQ(Split("smollm", "x 12 3"), (Strings{"x", " ", "1", "2", " ", "3"}));
  EXPECT_EQ(Split("smollm", "a   7"), (Strings{"a", "   ", "7"}))
      << "the digit ends the text for what comes after it";
}

TEST(PreTokenizer, Default) {
  EXPECT_EQ(Split("default", "a, 12345 b"), (Strings{"a", ",", " ", "123", "45", " b"}));
}

TEST(PreTokenizer, Falcon) {
  EXPECT_EQ(Split("falcon", "a `1234 don't"),
            (Strings{"a", " ", "`", "123", "4", " don", "'", "t"}));
}

TEST(PreTokenizer, Llama3) {
  EXPECT_EQ(Split("llama-bpe", "WE'RE 12345;\n\n  x"),
            (Strings{"WE", "'RE", " ", "123", "45", ";\n\n", " ", " x"}));
  EXPECT_EQ(Split("llama-bpe", " \n \n a(b"), (Strings{" \n \n", " a", "(b"}));
}

TEST(PreTokenizer, Qwen2) {
  EXPECT_EQ(Split("qwen2", "We'll 12.\r\nz"), (Strings{"We", "'ll", " ", "1", "2", ".\r\n", "z"}));
  EXPECT_EQ(Split("deepseek-r1-qwen", "_x\ty"), (Strings{"_x", "\ty"}));
}

TEST(PreTokenizer, Qwen35KeepsMarksWithLetters) {
  EXPECT_EQ(Split("qwen2",
                  "e\xCC\x81"
                  "x"),
            (Strings{"e", "\xCC\x81x"}));
  EXPECT_EQ(Split("qwen35",
                  "e\xCC\x81"
                  "x"),
            (Strings{"e\xCC\x81x"}));
}

TEST(PreTokenizer, TekkenCutsWhereCaseRises) {
  EXPECT_EQ(Split("tekken", "helloWorld HTTPServer don't a//\n12"),
            (Strings{"hello", "World", " HTTPServer", " don", "'t", " a", "//\n", "1", "2"}));
  EXPECT_EQ(Split("tekken", "ABC"), Strings{"ABC"});
}

TEST(PreTokenizer, Gpt4oKeepsContractions) {
  EXPECT_EQ(Split("gpt-4o", "don't DON'T 1234 camelCase's"),
            (Strings{"don't", " DON'T", " ", "123", "4", " camel", "Case's"}));
}

TEST(PreTokenizer, DeepSeek) {
  EXPECT_EQ(Split("deepseek-llm", "ab 12\n\xE6\x97\xA5\xE6\x9C\xAC!  "),
            (Strings{"ab", " ", "12", "\n", "\xE6\x97\xA5\xE6\x9C\xAC", "!", "  "}));
  EXPECT_EQ(Split("deepseek-coder", "ab 12\n;"), (Strings{"ab", " ", "1", "2", "\n", ";"}));
  EXPECT_EQ(Split("deepseek-v3", "a1234.b \xE6\x97\xA5\xE3\x81\xB2 !?\n"),
            (Strings{"a", "123", "4", ".b", " ", "\xE6\x97\xA5\xE3\x81\xB2", " !?\n"}));
}

TEST(PreTokenizer, OthersByOneMarkEach) {
  EXPECT_EQ(Split("bloom", "a,b c(d"), (Strings{"a", ",", "b", " c", "(", "d"}));
  EXPECT_EQ(Split("viking", "a12"), (Strings{"a", "1", "2"}));
  EXPECT_EQ(Split("chameleon", "IMGIMGABZ    x"), (Strings{"IMGIMGABZ", "    ", "x"}));
  EXPECT_EQ(Split("bailingmoe", "a\n\nb"), (Strings{"a", "\n\n", "b"}));
  EXPECT_EQ(Split("seed-coder", "a.\nb"), (Strings{"a", ".", "\n", "b"}));
  EXPECT_EQ(Split("ufakzeka", "ev'in"), (Strings{"ev", "'in"}));
  EXPECT_EQ(Split("laguna", "a. \n b"), (Strings{"a", ".", " ", "\n", " b"}));
  EXPECT_EQ(Split("minicpm5", "a 1234"), (Strings{"a", " ", "123", "4"}));
  EXPECT_EQ(Split("spark2_5", "a.\n1234"), (Strings{"a", ".", "\n", "1", "2", "3", "4"}));
  EXPECT_EQ(Split("youtu",
                  "\xED\x95\x9C\xE6\x97\xA5"
                  "a1"),
            (Strings{"\xED\x95\x9C", "\xE6\x97\xA5", "a", "1"}));
}

TEST(PreTokenizer, WhiteSpaceIsUnicodes) {
  // U+00A0, U+3000 and U+2028 are white space; U+200B and, since Unicode 6.3, U+180E are not.
  EXPECT_EQ(Split("gpt-2", "a\xC2\xA0\xE3\x80\x80\xE2\x80\xA8"),
            (Strings{"a", "\xC2\xA0\xE3\x80\x80\xE2\x80\xA8"}));
  EXPECT_EQ(Split("gpt-2", "!\xE2\x80\x8B\xE1\xA0\x8E!"), (Strings{"!\xE2\x80\x8B\xE1\xA0\x8E!"}));
}

TEST(PreTokenizer, PiecesAreTheText) {
  std::mt19937_64 random(5);
  for (std::string_view name : PreTokenizerNames()) {
    const PreTokenizer pretokenizer(name);
    EXPECT_TRUE(pretokenizer.Split("").empty());
    for (int i = 0; i < 100; ++i) {
      const std::string text =
          i % 3 ? testing::RandomUtf8(random, 60) : testing::RandomBytes(random, 90);
      const char* end = text.data();
      for (std::string_view piece : pretokenizer.Split(text)) {
        ASSERT_EQ(piece.data(), end) << name;
        ASSERT_FALSE(piece.empty()) << name;
        end += piece.size();
      }
      ASSERT_EQ(end, text.data() + text.size()) << name;
    }
  }
}

TEST(PreTokenizer, IllFormedBytesCountAsReplacementCharacters) {
  std::mt19937_64 random(6);
  for (int i = 0; i < 200; ++i) {
    const std::string good = testing::RandomUtf8(random, 30);
    std::string bad;
    std::string stands_for;
    for (size_t at = 0; at < good.size();) {
      const size_t length = NextUtf8(std::string_view(good).substr(at)).length;
      const bool spoil = random() % 4 == 0;
      bad += spoil ? std::string("\xFF") : good.substr(at, length);
      stands_for += spoil ? std::string(kReplacementCharacter) : good.substr(at, length);
      at += length;
    }
    for (std::string_view name : {"smollm", "llama-bpe", "tekken", "deepseek-v3"}) {
      const Strings expected = Split(name, stands_for);
      const Strings found = Split(name, bad);
      ASSERT_EQ(found.size(), expected.size());
      for (size_t k = 0; k < found.size(); ++k) {
        std::string piece;
        for (char c : found[k]) c == '\xFF' ? piece += kReplacementCharacter : piece += c;
        EXPECT_EQ(piece, expected[k]);
      }
    }
  }
}

TEST(PreTokenizer, NamesAreKnownOnce) {
  const auto names = PreTokenizerNames();
  EXPECT_EQ(std::set<std::string_view>(names.begin(), names.end()).size(), names.size());
  for (const char* name : {"gpt-2", "default", "smollm", "llama-bpe", "llama3", "llama-v3", "qwen2",
                           "deepseek-r1-qwen", "tekken"}) {
    EXPECT_EQ(std::count(names.begin(), names.end(), name), 1) << name;
  }
  testing::ExpectError(ErrorCode::kUnsupported, "smollm", [] { PreTokenizer("volapuk"); });
}

TEST(PreTokenizer, RulesThatGoWithTheName) {
  EXPECT_TRUE(PreTokenizer("llama-bpe").ignore_merges());
  EXPECT_TRUE(PreTokenizer("llama-bpe").adds_bos());
  EXPECT_TRUE(PreTokenizer("tekken").ignore_merges());
  EXPECT_FALSE(PreTokenizer("qwen2").ignore_merges());
  EXPECT_FALSE(PreTokenizer("smollm").adds_bos());
}

}  // namespace
}  // namespace pith
