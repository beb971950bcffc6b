#include "text/sentencepiece.h"

#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <random>

#include "text/random_text.h"
#include "text/small_vocabulary.h"
#include "text/tokenizer.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

using testing::ExpectError;
using testing::SmallSentencePiece;
using Strings = std::vector<std::string>;

Strings Pieces(const Tokenizer& tokenizer, const std::vector<Token>& tokens) {
  Strings pieces;
  for (Token token : tokens) pieces.push_back(tokenizer.Piece(token, true));
  return pieces;
}

std::string Join(const Tokenizer& tokenizer, const std::vector<Token>& tokens) {
  std::string text;
  for (const std::string& piece : Pieces(tokenizer, tokens)) text += piece;
  return text;
}

TEST(SentencePiece, MergesByScore) {
  const auto tokenizer = MakeTokenizer(SmallSentencePiece());
  const auto pieces = [&](std::string_view text, bool special = false) {
    return Pieces(*tokenizer, tokenizer->Encode(text, special));
  };
  EXPECT_EQ(pieces("the"), (Strings{" the"}));
  EXPECT_EQ(pieces("the the"), (Strings{" the", " the"}));
  // "in" scores above "ing", which needs it: i n g -> in g -> ing.
  EXPECT_EQ(pieces("ing"), (Strings{" ", "ing"}));
  // " t" scores best, then "he" before "er": the rest stays.
  EXPECT_EQ(pieces("ther"), (Strings{" the", "r"}));
  EXPECT_EQ(pieces("  "), (Strings{"  ", " "}));
  EXPECT_EQ(pieces(""), Strings{});
}

TEST(SentencePiece, BytesWhereTheVocabularyHasNoCharacter) {
  const auto tokenizer = MakeTokenizer(SmallSentencePiece());
  EXPECT_EQ(tokenizer->Encode("\xC3\xA9").size(), 2u);
  // U+20AC: three byte tokens, which come after <unk>, <s> and </s>.
  EXPECT_EQ(tokenizer->Encode("e\xE2\x82\xAC").size(), 5u);
  EXPECT_EQ(tokenizer->Encode("\n").back(), 3 + '\n');
  EXPECT_EQ(tokenizer->Encode("\xFF").back(), 3 + 0xFF);
}

TEST(SentencePiece, SpaceInFrontWhereTheModelSaysSo) {
  Vocabulary vocabulary = SmallSentencePiece();
  const auto with = MakeTokenizer(vocabulary);
  vocabulary.add_space_prefix = false;
  const auto without = MakeTokenizer(vocabulary);
  EXPECT_EQ(Pieces(*with, with->Encode("he")), (Strings{" ", "he"}));
  EXPECT_EQ(Pieces(*without, without->Encode("he")), (Strings{"he"}));
  // Behind a special token a text begins anew.
  EXPECT_EQ(Pieces(*with, with->Encode("he<s>he", true)), (Strings{" ", "he", "<s>", " ", "he"}));
}

TEST(SentencePiece, TextNeverMergesIntoControlTokens) {
  const auto tokenizer = MakeTokenizer(SmallSentencePiece());
  EXPECT_EQ(Pieces(*tokenizer, tokenizer->Encode("</s>")), (Strings{" ", "</", "s>"}));
  EXPECT_EQ(tokenizer->Encode("</s>", true), std::vector<Token>{2});
  for (Token token : tokenizer->Encode("<unk><0x41>")) EXPECT_GT(token, 2);
  EXPECT_EQ(tokenizer->Piece(3 + 'A'), "A");
  EXPECT_EQ(Pieces(*tokenizer, tokenizer->Encode("<u>")), (Strings{"<u>"}));
}

TEST(SentencePiece, AnyBytesComeBackBehindTheSpace) {
  const auto tokenizer = MakeTokenizer(SmallSentencePiece());
  std::mt19937_64 random(3);
  for (int i = 0; i < 500; ++i) {
    const std::string text =
        i % 2 ? testing::RandomUtf8(random, 60) : testing::RandomBytes(random, 100);
    if (text.find("\xE2\x96\x81") != std::string::npos) continue;  // is read back as a space
    EXPECT_EQ(Join(*tokenizer, tokenizer->Encode(text)), " " + text);
  }
}

TEST(SentencePiece, LongRunsTakeLinearTime) {
  const auto tokenizer = MakeTokenizer(SmallSentencePiece());
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& text : {std::string(500'000, ' '), std::string(500'000, 'e')}) {
    EXPECT_EQ(Join(*tokenizer, tokenizer->Encode(text)), " " + text);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_LT(seconds.count(), 30);
}

TEST(SentencePiece, IdsAndDefaults) {
  const auto tokenizer = MakeTokenizer(SmallSentencePiece());
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 2);
  EXPECT_TRUE(tokenizer->add_bos());
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(2));
}

TEST(SentencePiece, RefusesVocabulariesThatCannotWork) {
  Vocabulary no_byte = SmallSentencePiece();
  no_byte.texts[3 + 0x80] = "x80";
  no_byte.types[3 + 0x80] = TokenType::kNormal;
  ExpectError(ErrorCode::kFormat, "no token for the byte 0x80", [&] { MakeTokenizer(no_byte); });
  Vocabulary misnamed = SmallSentencePiece();
  misnamed.texts[3 + 0x80] = "<0x8G>";
  ExpectError(ErrorCode::kFormat, "<0x8G>", [&] { MakeTokenizer(misnamed); });
  Vocabulary no_score = SmallSentencePiece();
  no_score.scores[300 - 40] = std::numeric_limits<float>::quiet_NaN();
  ExpectError(ErrorCode::kFormat, "score", [&] { MakeTokenizer(no_score); });
}

}  // namespace
}  // namespace pith
