#include "eval/text_pieces.h"

#include <gtest/gtest.h>

#include <set>

#include "engine/default_model.h"
#include "pith/error.h"

namespace pith {
namespace {

const std::vector<std::string>& Texts() {
  static const std::vector<std::string> texts = {
      ReadText(std::string(PITH_TEST_TEXTS) + "/essays/gap.txt").substr(0, 6000),
      "A short text.",
      ReadText(std::string(PITH_TEST_TEXTS) + "/essays/love.txt").substr(0, 9000),
  };
  return texts;
}

TEST(TextPiecesTest, PiecesAreRunningTextAndWhatFollows) {
  const Tokenizer& tokenizer = DefaultModel().tokenizer();
  const TextPieces task(tokenizer, Texts(), 42);
  std::set<int> documents;
  std::set<int64_t> found;  // first token, by document
  for (int index = 0; index < 12; ++index) {
    const TextPiece piece = task.Make(index, 417);
    const std::vector<Token> document = tokenizer.Encode(Texts()[piece.document]);
    const std::vector<Token>& all = piece.tokens;
    ASSERT_EQ(piece.opening.size() + all.size(), 417u);
    ASSERT_LE(piece.begin + all.size(), document.size());
    EXPECT_TRUE(std::equal(all.begin(), all.end(), document.begin() + piece.begin));
    documents.insert(piece.document);
    for (int64_t other : found) {
      EXPECT_GT(std::abs(other - (piece.document * 100000 + piece.begin)), 16) << index;
    }
    found.insert(piece.document * 100000 + piece.begin);
    EXPECT_EQ(task.Make(index, 417).begin, piece.begin);
  }
  EXPECT_EQ(documents, (std::set<int>{0, 2}));
  EXPECT_NE(TextPieces(tokenizer, Texts(), 43).Make(0, 417).begin, task.Make(0, 417).begin);
}

TEST(TextPiecesTest, TextsThatAreTooShortAreRefused) {
  const Tokenizer& tokenizer = DefaultModel().tokenizer();
  const TextPieces task(tokenizer, Texts(), 1);
  EXPECT_THROW(task.Make(0, task.longest() + 2), Error);
  EXPECT_THROW(task.Make(0, 0), Error);
  EXPECT_EQ(task.Make(5, task.longest()).begin, 0);
}

}  // namespace
}  // namespace pith
