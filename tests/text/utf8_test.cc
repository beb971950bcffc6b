#include "text/utf8.h"

#include <gtest/gtest.h>

#include <random>

#include "text/random_text.h"
#include "text/small_vocabulary.h"
#include "text/tokenizer.h"

namespace pith {
namespace {

using testing::RandomBytes;
using testing::RandomUtf8;

TEST(Utf8, KnowsWellFormedSequences) {
  // Unicode 15, section 3.9: first and last of every row of table 3-7, and their neighbours.
  for (std::string_view good : {"\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF",
                                "\xEE\x80\x80", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_EQ(NextUtf8(good).kind, Utf8Kind::kValid);
    EXPECT_EQ(NextUtf8(good).length, good.size());
    EXPECT_EQ(ValidUtf8Prefix(good), good.size());
  }
  for (std::string_view bad :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\x80", "\xED\xA0\x80", "\xF0\x8F\x80\x80",
        "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF"}) {
    EXPECT_EQ(NextUtf8(bad).kind, Utf8Kind::kInvalid);
    EXPECT_EQ(NextUtf8(bad).length, 1u);
    EXPECT_EQ(ValidUtf8Prefix(bad), 0u);
  }
  EXPECT_EQ(NextUtf8("\xE2\x82").kind, Utf8Kind::kIncomplete);
  EXPECT_EQ(NextUtf8("\xE2\x82x").kind, Utf8Kind::kInvalid);
  EXPECT_EQ(NextUtf8("\xE2\x82x").length, 2u);
}

TEST(Utf8, ValidPrefixEndsAnywhere) {
  for (size_t n = 0; n < 40; ++n) {
    const std::string good = std::string(n, 'a') + "\xC3\xA9";
    EXPECT_EQ(ValidUtf8Prefix(good), n + 2);
    EXPECT_EQ(ValidUtf8Prefix(std::string(n, 'a') + "\xA9" + std::string(n, 'b')), n);
  }
}

TEST(Utf8, AppendIsReadBack) {
  for (uint32_t character : {0x0u, 0x7Fu, 0x80u, 0x7FFu, 0x800u, 0xFFFDu, 0x10000u, 0x10FFFFu}) {
    std::string text;
    AppendUtf8(character, text);
    EXPECT_EQ(ValidUtf8Prefix(text), text.size());
    EXPECT_EQ(NextUtf8(text).length, text.size());
  }
}

TEST(Utf8, IllFormedPartsBecomeOneReplacementEach) {
  // The example of Unicode 15, table 3-11.
  std::string pending = "\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41";
  std::string out;
  DrainUtf8(pending, true, out);
  EXPECT_EQ(out, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\x41");
  EXPECT_TRUE(pending.empty());
}

// Tokens 0 to 255 of the small vocabulary are the bytes, so every split of a text can be streamed.
std::vector<Token> AsByteTokens(std::string_view text) {
  std::vector<Token> tokens;
  for (char c : text) tokens.push_back(static_cast<uint8_t>(c));
  return tokens;
}

TEST(StreamDecoder, GivesWhatDecodeGives) {
  const auto tokenizer = MakeTokenizer(testing::SmallByteLevel("gpt-2"));
  std::mt19937_64 random(1);
  for (int i = 0; i < 400; ++i) {
    const std::string text = i % 2 ? RandomUtf8(random, 30) : RandomBytes(random, 60);
    for (const auto& tokens : {AsByteTokens(text), tokenizer->Encode(text)}) {
      StreamDecoder decoder(*tokenizer);
      std::string streamed;
      for (Token token : tokens) {
        const std::string part = decoder.Push(token);
        EXPECT_EQ(ValidUtf8Prefix(part), part.size());
        streamed += part;
      }
      streamed += decoder.Finish();
      EXPECT_EQ(streamed, tokenizer->Decode(tokens));
      if (i % 2) {
        EXPECT_EQ(streamed, text);
      }
    }
  }
}

TEST(StreamDecoder, HoldsBackOnlyHalfCharacters) {
  const auto tokenizer = MakeTokenizer(testing::SmallByteLevel("gpt-2"));
  StreamDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.Push('a'), "a");
  EXPECT_EQ(decoder.Push(0xE2), "");
  EXPECT_EQ(decoder.Push(0x82), "");
  EXPECT_EQ(decoder.Push(0xAC), "\xE2\x82\xAC");
  EXPECT_EQ(decoder.Push(0xE2), "");
  EXPECT_EQ(decoder.Push('b'),
            "\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(decoder.Push(0xFF), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder.Push(0xF0), "");
  EXPECT_EQ(decoder.Finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder.Finish(), "");
}

}  // namespace
}  // namespace pith
