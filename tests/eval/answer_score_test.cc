#include "eval/answer_score.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

namespace pith {
namespace {

using Strings = std::vector<std::string>;

nlohmann::json Golden() {
  return nlohmann::json::parse(std::ifstream(PITH_TEST_DATA "/answer_scores.json"));
}

TEST(NamesTest, AnywhereInAnyCase) {
  EXPECT_TRUE(Names(" 1234567.", "1234567"));
  EXPECT_TRUE(Names("It is AbC!", "aBc"));
  EXPECT_FALSE(Names("123456", "1234567"));
  EXPECT_FALSE(Names("", "1"));
  EXPECT_FALSE(Names("1,234,567", "1234567"));
}

TEST(NamedTest, ShareAndAny) {
  const Strings references = {"Anna", "Bert", "Carla", "Dora"};
  EXPECT_EQ(NamedShare("anna and DORA", references), 0.5);
  EXPECT_EQ(NamedShare("Annabert carladora", references), 1);
  EXPECT_EQ(NamedShare("nobody", references), 0);
  EXPECT_EQ(NamedAny("bert", references), 1);
  EXPECT_EQ(NamedAny("nobody", references), 0);
  EXPECT_EQ(NamedShare("anna", {}), 0);
}

TEST(WordF1Test, BagsOfPlainWords) {
  EXPECT_EQ(WordF1("The Cat, an animal", "cat animal!"), 1);
  // Two of three words said are wanted, of four.
  EXPECT_NEAR(WordF1("red green blue", "green blue white black"),
              2 * (2 / 3.0) * 0.5 / (2 / 3.0 + 0.5), 1e-12);
  // A word counts as often as both have it.
  EXPECT_NEAR(WordF1("yes yes yes", "yes"), 2 * (1 / 3.0) / (1 / 3.0 + 1), 1e-12);
  EXPECT_EQ(WordF1("can't", "cant"), 1);
  EXPECT_EQ(WordF1("", "word"), 0);
  EXPECT_EQ(WordF1("the", "a"), 0);
}

TEST(RougeLTest, ByHand) {
  // Common: "police the gunman"; 3 of 4 words said, 3 of 4 wanted.
  EXPECT_NEAR(RougeL("police kill the gunman", "police killed the gunman"), 0.75, 1e-7);
  // In another order only one of the two is in a common subsequence.
  EXPECT_NEAR(RougeL("two one", "one two"), 0.5, 1e-7);
  // As two sentences both are.
  EXPECT_NEAR(RougeL("two. one", "one. two"), 1, 1e-7);
}

TEST(RougeLTest, AsThePackageHasIt) {
  int n = 0;
  const nlohmann::json golden = Golden().at("rouge_l");
  for (const auto& pair : golden) {
    EXPECT_NEAR(RougeL(pair.at(0).get<std::string>(), pair.at(1).get<std::string>()),
                pair.at(2).get<double>(), 1e-7)
        << pair;
    ++n;
  }
  EXPECT_GE(n, 20);
}

TEST(CodeSimilarityTest, AsThePackageHasIt) {
  int n = 0;
  const nlohmann::json golden = Golden().at("similarity");
  for (const auto& pair : golden) {
    EXPECT_EQ(CodeSimilarity(pair.at(0).get<std::string>(), pair.at(1).get<std::string>()),
              pair.at(2).get<double>())
        << pair;
    ++n;
  }
  EXPECT_GE(n, 20);
}

TEST(CodeSimilarityTest, OfTheFirstLineOfCode) {
  EXPECT_EQ(CodeSimilarity("\n\n```python\n# adds\nreturn a + b\nreturn a", "return a + b"), 1);
  EXPECT_EQ(CodeSimilarity("// only a comment", "x"), 0);
  EXPECT_EQ(CodeSimilarity("# a comment\n\nx", "x"), 0) << "an empty line is a line";
}

TEST(ClassShareTest, NamesInTheAnswer) {
  const Strings classes = {"Number", "Other number", "Date", "City"};
  EXPECT_EQ(ClassShare("Date", "Date", classes), 1);
  EXPECT_EQ(ClassShare("Date or City", "Date", classes), 0.5);
  EXPECT_EQ(ClassShare("City", "Date", classes), 0);
  EXPECT_EQ(ClassShare("", "Date", classes), 0);
  const Strings nested = {"number", "Other number"};
  EXPECT_EQ(ClassShare("Other number", "Other number", nested), 1);
  EXPECT_EQ(ClassShare("Other number", "number", nested), 0.5);
}

TEST(NumberShareTest, OfTheNumbersSaid) {
  EXPECT_EQ(NumberShare("There are 12.", "12"), 1);
  EXPECT_EQ(NumberShare("12 or 13, or 14 or 12", "12"), 0.5);
  EXPECT_EQ(NumberShare("twelve", "12"), 0);
  EXPECT_EQ(NumberShare("112", "12"), 0);
}

}  // namespace
}  // namespace pith
