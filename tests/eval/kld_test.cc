#include "eval/kld.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/default_model.h"
#include "eval/log_probs.h"
#include "pith/error.h"

namespace pith {
namespace {

KldOutcome Outcome(std::vector<double> divergence, std::vector<double> nll,
                   std::vector<int> same_top) {
  KldOutcome outcome;
  outcome.divergence = std::move(divergence);
  outcome.nll = std::move(nll);
  outcome.same_top = std::move(same_top);
  return outcome;
}

TEST(KldSummaryTest, MeansQuantilesAndPairedIncrease) {
  const std::vector<KldOutcome> full = {Outcome({0, 0}, {1, 3}, {1, 1}),
                                        Outcome({0, 0}, {8, 10}, {1, 1})};
  const std::vector<KldOutcome> some = {Outcome({0.1, 0.3}, {2, 3}, {1, 0}),
                                        Outcome({0.5, 0.7}, {9, 10}, {1, 1})};
  const KldSummary sum = SummariseKld(full, some, 1);
  EXPECT_NEAR(sum.mean, 0.4, 1e-15);
  EXPECT_NEAR(sum.median, 0.4, 1e-15);
  EXPECT_NEAR(sum.p99, 0.7 - 0.03 * 0.2, 1e-12);
  EXPECT_NEAR(sum.p999, 0.7 - 0.003 * 0.2, 1e-12);
  EXPECT_NEAR(sum.same_top, 0.75, 1e-15);
  EXPECT_NEAR(sum.nll.mean, 6, 1e-15);
  EXPECT_NEAR(sum.nll.baseline, 5.5, 1e-15);
  EXPECT_NEAR(sum.nll.increase, 0.5, 1e-15);
  // Both pieces grow by a half: paired, nothing is uncertain about it.
  EXPECT_NEAR(sum.nll.increase_interval.low, 0.5, 1e-15);
  EXPECT_NEAR(sum.nll.increase_interval.high, 0.5, 1e-15);
  EXPECT_NEAR(sum.interval.low, 0.2, 1e-15);
  EXPECT_NEAR(sum.interval.high, 0.6, 1e-15);
  EXPECT_THROW(SummariseKld({}, {}, 1), Error);
  EXPECT_THROW(SummariseKld(full, std::span(some).first(1), 1), Error);
}

const std::vector<std::string>& Texts() {
  static const std::vector<std::string> texts = {
      ReadText(std::string(PITH_TEST_TEXTS) + "/essays/gap.txt").substr(0, 6000),
      "A short text.",
      ReadText(std::string(PITH_TEST_TEXTS) + "/essays/love.txt").substr(0, 9000),
  };
  return texts;
}

Plan PlanOf(const std::string& scorer, double fraction) {
  Plan plan;
  plan.scorer = scorer;
  plan.window = 32;
  plan.keep.kind = Keep::Kind::kFraction;
  plan.keep.fraction = fraction;
  if (scorer == "kvzap") {
    plan.calibration =
        std::make_shared<const Calibration>(Calibration::Load(PITH_DEFAULT_CALIBRATION));
  }
  return plan;
}

// What the summary compares is what two sessions of their own would predict.
TEST(KldRun, ComparesWithTheFullCache) {
  const TextPiece piece = TextPieces(DefaultModel().tokenizer(), Texts(), 42).Make(0, 192 + 9);
  const auto context = std::span(piece.tokens).first(192);
  const auto next = std::span(piece.tokens).last(9);
  SessionOptions options;
  options.n_threads = 1;
  const std::vector<Plan> plans = {PlanOf("knorm", 0.4), Plan(), PlanOf("kvzap", 1.0),
                                   PlanOf("kvzap", 0.5)};
  const std::vector<KldOutcome> outcomes =
      RunKld(DefaultModel(), piece, 8, plans, Compression::kAfterReading, options);
  ASSERT_EQ(outcomes.size(), plans.size());
  const KldOutcome& full = outcomes[1];
  for (const KldOutcome& outcome : outcomes) {
    ASSERT_EQ(outcome.divergence.size(), 8u);
    ASSERT_EQ(outcome.nll.size(), 8u);
    EXPECT_EQ(outcome.tokens, 192);
  }
  for (size_t i = 0; i < 8; ++i) {
    for (const KldOutcome& whole : {full, outcomes[2]}) {
      EXPECT_EQ(whole.divergence[i], 0);
      EXPECT_EQ(whole.nll[i], full.nll[i]);
      EXPECT_EQ(whole.same_top[i], 1);
    }
    EXPECT_GT(outcomes[0].divergence[i], 0);
    EXPECT_GT(outcomes[3].divergence[i], 0);
  }

  Session session(DefaultModel(), Plan(), options);
  session.Read(context);
  std::vector<double> log_probs(static_cast<size_t>(DefaultModel().info().n_vocab));
  ReadOptions each;
  each.on_logits = [&](int64_t position, std::span<const float> logits) {
    const auto i = static_cast<size_t>(position - 192);
    LogSoftmax(logits, log_probs);
    EXPECT_EQ(full.nll[i], -log_probs[static_cast<size_t>(next[i + 1])]) << i;
  };
  session.Read(next.first(8), each);

  const FullPredictions known = PredictFull(DefaultModel(), piece, 8, options);
  EXPECT_EQ(known.outcome.nll, full.nll);
  EXPECT_EQ(known.outcome.entries_per_head, full.entries_per_head);
  const std::vector<KldOutcome> beside =
      RunKld(DefaultModel(), piece, 8, plans, Compression::kAfterReading, options, &known);
  for (size_t i = 0; i < plans.size(); ++i) {
    EXPECT_EQ(beside[i].divergence, outcomes[i].divergence) << i;
    EXPECT_EQ(beside[i].nll, outcomes[i].nll) << i;
  }
  EXPECT_EQ(beside[1].read_s, known.outcome.read_s);

  const KldOutcome anew =
      RunKld(DefaultModel(), piece, 8, {&plans[3], 1}, Compression::kWhileReading, options).front();
  EXPECT_EQ(anew.entries, outcomes[3].entries);
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(anew.divergence[i], outcomes[3].divergence[i]);
}

}  // namespace
}  // namespace pith
