#include "eval/ppl.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "eval/log_probs.h"
#include "eval/small_model.h"
#include "pith/error.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

using testing::SmallModel;
using testing::SomePiece;

constexpr double kRounding = 1e-3;  // of products whose number of rows differs

Plan PlanOf(const std::string& keep, int window = 16) {
  Plan plan;
  plan.scorer = "knorm";
  plan.keep = Keep::Parse(keep);
  plan.budget = "uniform";
  plan.window = window;
  return plan;
}

SessionOptions OneThread(int n_batch = 64) {
  SessionOptions options;
  options.n_threads = 1;
  options.n_batch = n_batch;
  return options;
}

// NLL of tokens 1.., read one by one with nothing evicted.
std::vector<double> FullNll(const TextPiece& piece) {
  Session session(SmallModel(), Plan(), OneThread());
  std::vector<double> nll;
  for (size_t i = 0; i + 1 < piece.tokens.size(); ++i) {
    session.Next(piece.tokens[i]);
    nll.push_back(NegativeLogLikelihood(session.logits(), piece.tokens[i + 1]));
  }
  return nll;
}

double MeanOf(const std::vector<double>& nll, size_t begin, size_t end) {
  double sum = 0;
  for (size_t i = begin; i < end; ++i) sum += nll[i];
  return sum / static_cast<double>(end - begin);
}

TEST(PplTest, TheFullCacheIsThatOfItsPredictions) {
  const TextPiece piece = SomePiece(300);
  const std::vector<double> want = FullNll(piece);
  const std::vector<Plan> plans = {Plan()};
  for (const Stride stride : {Stride::kBatch, Stride::kToken}) {
    const PplOutcome found = RunPpl(SmallModel(), piece, plans, 100, stride, OneThread()).front();
    EXPECT_NEAR(found.nll, MeanOf(want, 99, 299), kRounding);
    ASSERT_EQ(found.by_position.size(), 3u);
    EXPECT_NEAR(found.by_position[0], MeanOf(want, 0, 127), kRounding);
    EXPECT_NEAR(found.by_position[1], MeanOf(want, 127, 255), kRounding);
    EXPECT_NEAR(found.by_position[2], MeanOf(want, 255, 299), kRounding);
    EXPECT_EQ(found.tokens, 300);
    EXPECT_EQ(found.entries, found.entries_full);
  }
}

TEST(PplTest, StreamingHoldsTheBudgetAfterEveryToken) {
  const TextPiece piece = SomePiece(200);
  const std::vector<Plan> plans = {Plan(), PlanOf("64"), PlanOf("250"), PlanOf("50%")};
  const auto found = RunPpl(SmallModel(), piece, plans, 65, Stride::kToken, OneThread());
  for (const auto& layer : found[1].entries_per_head) {
    for (const int64_t entries : layer) EXPECT_EQ(entries, 64);
  }
  // The first bin ends at 128, the budget at 64: before that nothing has changed.
  EXPECT_GT(std::abs(found[1].by_position[1] - found[0].by_position[1]), kRounding);
  EXPECT_NEAR(found[2].nll, found[0].nll, kRounding);
  EXPECT_EQ(found[2].entries, found[2].entries_full);
  EXPECT_EQ(found[3].entries, found[3].entries_full / 2);

  Session session(SmallModel(), plans[1], OneThread());
  std::vector<double> nll;
  for (size_t i = 0; i + 1 < piece.tokens.size(); ++i) {
    session.Read({&piece.tokens[i], 1});
    EXPECT_LE(session.stats().entries, 64 * 2 * SmallModel().info().n_kv_heads);
    nll.push_back(NegativeLogLikelihood(session.logits(), piece.tokens[i + 1]));
  }
  EXPECT_NEAR(found[1].nll, MeanOf(nll, 64, 199), kRounding);
}

TEST(PplTest, BatchesAreSettledOnTheWay) {
  const TextPiece piece = SomePiece(256);
  const std::vector<Plan> plans = {Plan(), PlanOf("64")};
  const auto found = RunPpl(SmallModel(), piece, plans, 1, Stride::kBatch, OneThread(128));
  // The second batch is read on top of what the first left.
  EXPECT_EQ(found[1].by_position[0], found[0].by_position[0]);
  EXPECT_GT(std::abs(found[1].by_position[1] - found[0].by_position[1]), kRounding);
  EXPECT_EQ(found[1].entries, 64 * 2 * SmallModel().info().n_kv_heads);
  // A batch of one token is the streaming protocol.
  const auto one = RunPpl(SmallModel(), piece, {&plans[1], 1}, 1, Stride::kBatch, OneThread(1));
  const auto stream = RunPpl(SmallModel(), piece, {&plans[1], 1}, 1, Stride::kToken, OneThread(1));
  EXPECT_NEAR(one[0].nll, stream[0].nll, kRounding);
}

TEST(PplTest, FromLiesWithinThePiece) {
  const std::vector<Plan> plans = {Plan()};
  for (const int64_t from : {int64_t{0}, int64_t{20}}) {
    testing::ExpectError(ErrorCode::kInvalidArgument, "expected 1 to 19", [&] {
      RunPpl(SmallModel(), SomePiece(20), plans, from, Stride::kBatch, OneThread());
    });
  }
}

}  // namespace
}  // namespace pith
