#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "pith/error.h"
#include "pith/generate.h"
#include "tools/random_gguf.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

// A small model that speaks nonsense, with the tokenizer of the test model.
class GenerateTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    testing::RandomGguf shape;
    shape.tied = true;
    shape.tokenizer_from = PITH_TEST_MODEL;
    const testing::TempFolder folder;
    testing::WriteRandomGguf(shape, folder / "model.gguf");
    model_ = new Model(Model::Load(folder / "model.gguf"));
  }
  static void TearDownTestSuite() {
    delete model_;
    model_ = nullptr;
  }

  static Session NewSession(int n_ctx = 0) {
    SessionOptions options;
    options.n_threads = 1;
    options.n_ctx = n_ctx;
    return Session(*model_, {}, options);
  }
  static std::vector<Token> Prompt() { return model_->tokenizer().Encode("Once upon a time"); }

  static const Model* model_;
};

const Model* GenerateTest::model_ = nullptr;

TEST_F(GenerateTest, TokensAreReadAndTextIsTheirs) {
  Session session = NewSession();
  session.Read(Prompt());
  const int64_t before = session.n_read();
  Sampler sampler{SamplingOptions{}};
  std::string streamed;
  int calls = 0;
  const Generation result = Generate(session, sampler, 20, [&](std::string_view text) {
    streamed += text;
    ++calls;
    return true;
  });
  ASSERT_EQ(result.stop, StopReason::kMaxTokens);
  EXPECT_EQ(result.tokens.size(), 20u);
  EXPECT_GE(calls, 20);
  EXPECT_EQ(session.n_read(), before + 20);
  EXPECT_EQ(streamed, result.text);
  EXPECT_EQ(result.text, model_->tokenizer().Decode(result.tokens));
  EXPECT_GT(result.seconds, 0);
}

TEST_F(GenerateTest, GreedyIsWhatNextAndArgmaxGive) {
  Session session = NewSession();
  session.Read(Prompt());
  Sampler sampler{SamplingOptions{}};
  const Generation result = Generate(session, sampler, 10);

  Session again = NewSession();
  again.Read(Prompt());
  for (Token token : result.tokens) {
    const std::span<const float> logits = again.logits();
    EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(), token);
    again.Next(token);
  }
}

TEST_F(GenerateTest, GoesOnWhereItStopped) {
  Session whole = NewSession();
  Session parts = NewSession();
  whole.Read(Prompt());
  parts.Read(Prompt());
  Sampler a{SamplingOptions{}};
  Sampler b{SamplingOptions{}};
  const Generation all = Generate(whole, a, 12);
  std::vector<Token> joined;
  for (int n : {5, 0, 1, 6}) {
    const Generation part = Generate(parts, b, n);
    joined.insert(joined.end(), part.tokens.begin(), part.tokens.end());
  }
  EXPECT_EQ(joined, all.tokens);
}

TEST_F(GenerateTest, StopsWhenTheCallerSaysSo) {
  Session session = NewSession();
  session.Read(Prompt());
  const int64_t before = session.n_read();
  Sampler sampler{SamplingOptions{}};
  int calls = 0;
  const Generation result =
      Generate(session, sampler, -1, [&](std::string_view) { return ++calls < 3; });
  EXPECT_EQ(result.stop, StopReason::kCancelled);
  EXPECT_EQ(result.tokens.size(), 3u);
  EXPECT_EQ(session.n_read(), before + 3);
}

TEST_F(GenerateTest, StopsWhenTheSessionIsCancelledAndHoldsWhatWasSaid) {
  Session session = NewSession();
  session.Read(Prompt());
  const int64_t before = session.n_read();
  Sampler sampler{SamplingOptions{}};
  const Generation result = Generate(session, sampler, -1, [&](std::string_view) {
    session.Cancel();
    return true;
  });
  EXPECT_EQ(result.stop, StopReason::kCancelled);
  EXPECT_EQ(session.n_read(), before + static_cast<int64_t>(result.tokens.size()));
  EXPECT_EQ(Generate(session, sampler, 2).tokens.size(), 2u);
}

TEST_F(GenerateTest, StopsWhenTheContextIsFull) {
  Session session = NewSession(/*n_ctx=*/24);
  session.Read(Prompt());
  Sampler sampler{SamplingOptions{}};
  const Generation result = Generate(session, sampler, -1);
  EXPECT_EQ(result.stop, StopReason::kContextFull);
  EXPECT_EQ(session.n_read(), 24);
  EXPECT_EQ(Generate(session, sampler, -1).tokens.size(), 0u);
}

TEST_F(GenerateTest, NothingReadIsAnError) {
  Session session = NewSession();
  Sampler sampler{SamplingOptions{}};
  EXPECT_THROW(Generate(session, sampler, 5), Error);
}

}  // namespace
}  // namespace pith
