#include "eval/kld.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "engine/default_model.h"
#include "pith/error.h"

namespace pith {
namespace {

std::vector<double> Logs(const std::vector<double>& probabilities) {
  std::vector<double> logs;
  for (double p : probabilities) logs.push_back(std::log(p));
  return logs;
}

std::vector<double> LogSoftmaxOf(const std::vector<float>& logits) {
  std::vector<double> log_probs(logits.size());
  LogSoftmax(logits, log_probs);
  return log_probs;
}

TEST(LogSoftmaxTest, KnownValues) {
  const std::vector<double> even = LogSoftmaxOf({5, 5, 5, 5});
  for (double log_prob : even) EXPECT_NEAR(log_prob, -std::log(4.0), 1e-15);
  const std::vector<double> odds = LogSoftmaxOf({0, 1});
  EXPECT_NEAR(odds[1], -std::log1p(std::exp(-1.0)), 1e-15);
  EXPECT_NEAR(odds[0], odds[1] - 1, 1e-15);
}

TEST(LogSoftmaxTest, LargeLogitsDoNotOverflow) {
  const float lowest = -std::numeric_limits<float>::infinity();
  const std::vector<double> log_probs = LogSoftmaxOf({30000, 29999, -30000, lowest});
  EXPECT_NEAR(log_probs[0], -std::log1p(std::exp(-1.0)), 1e-12);
  EXPECT_NEAR(log_probs[2], log_probs[0] - 60000, 1e-9);
  EXPECT_EQ(log_probs[3], lowest);
}

TEST(DivergenceTest, KnownValues) {
  EXPECT_NEAR(Divergence(Logs({0.5, 0.5}), Logs({0.25, 0.75})),
              0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3), 1e-15);
  EXPECT_NEAR(Divergence(Logs({0.25, 0.75}), Logs({0.5, 0.5})),
              0.25 * std::log(0.5) + 0.75 * std::log(1.5), 1e-15);
  EXPECT_NEAR(Divergence(Logs({1, 0}), Logs({0.125, 0.875})), std::log(8.0), 1e-15);
  EXPECT_EQ(Divergence(Logs({0.2, 0.8}), Logs({0.2, 0.8})), 0);
}

TEST(DivergenceTest, WhatIsImpossibleIsInfinitelyFar) {
  EXPECT_EQ(Divergence(Logs({0.5, 0.5}), Logs({0, 1})), std::numeric_limits<double>::infinity());
  EXPECT_EQ(Divergence(Logs({0, 1}), Logs({0.5, 0.5})), std::log(2.0));
  EXPECT_TRUE(std::isnan(Divergence(Logs({0.5, 0.5}), std::vector<double>{NAN, -1})));
}

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
  EXPECT_NEAR(sum.nll, 6, 1e-15);
  EXPECT_NEAR(sum.full_nll, 5.5, 1e-15);
  EXPECT_NEAR(sum.nll_increase, 0.5, 1e-15);
  // Both pieces grow by a half: paired, nothing is uncertain about it.
  EXPECT_NEAR(sum.nll_increase_interval.low, 0.5, 1e-15);
  EXPECT_NEAR(sum.nll_increase_interval.high, 0.5, 1e-15);
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

TEST(KldTaskTest, PiecesAreRunningTextAndWhatFollows) {
  const Tokenizer& tokenizer = DefaultModel().tokenizer();
  const KldTask task(tokenizer, Texts(), 16, 42);
  std::set<int> documents;
  std::set<int64_t> predicted;  // first predicted token, by document
  for (int index = 0; index < 12; ++index) {
    const KldPiece piece = task.Make(index, 400);
    const std::vector<Token> document = tokenizer.Encode(Texts()[piece.document]);
    ASSERT_EQ(piece.opening.size() + piece.context.size(), 400u);
    ASSERT_EQ(piece.next.size(), 17u);
    std::vector<Token> all = piece.context;
    all.insert(all.end(), piece.next.begin(), piece.next.end());
    ASSERT_LE(piece.begin + all.size(), document.size());
    EXPECT_TRUE(std::equal(all.begin(), all.end(), document.begin() + piece.begin));
    documents.insert(piece.document);
    for (int64_t other : predicted) {
      EXPECT_GT(std::abs(other - (piece.document * 100000 + piece.begin)), 16) << index;
    }
    predicted.insert(piece.document * 100000 + piece.begin);
    EXPECT_EQ(task.Make(index, 400).begin, piece.begin);
  }
  EXPECT_EQ(documents, (std::set<int>{0, 2}));
  EXPECT_NE(KldTask(tokenizer, Texts(), 16, 43).Make(0, 400).begin, task.Make(0, 400).begin);
}

TEST(KldTaskTest, TextsThatAreTooShortAreRefused) {
  const Tokenizer& tokenizer = DefaultModel().tokenizer();
  const KldTask task(tokenizer, Texts(), 16, 1);
  EXPECT_THROW(task.Make(0, task.longest()), Error);
  EXPECT_THROW(task.Make(0, 0), Error);
  EXPECT_THROW(KldTask(tokenizer, Texts(), 0, 1), Error);
  const int64_t most = task.longest() - 17;
  EXPECT_EQ(task.Make(5, most).begin, 0);
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
  const KldPiece piece = KldTask(DefaultModel().tokenizer(), Texts(), 8, 42).Make(0, 192);
  SessionOptions options;
  options.n_threads = 1;
  const std::vector<Plan> plans = {PlanOf("knorm", 0.4), Plan(), PlanOf("kvzap", 1.0),
                                   PlanOf("kvzap", 0.5)};
  const std::vector<KldOutcome> outcomes =
      RunKld(DefaultModel(), piece, plans, Compression::kAfterReading, options);
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
  session.Read(piece.context);
  std::vector<double> log_probs(static_cast<size_t>(DefaultModel().info().n_vocab));
  ReadOptions each;
  each.on_logits = [&](int64_t position, std::span<const float> logits) {
    const auto i = static_cast<size_t>(position - 192);
    LogSoftmax(logits, log_probs);
    EXPECT_EQ(full.nll[i], -log_probs[static_cast<size_t>(piece.next[i + 1])]) << i;
  };
  session.Read(std::span(piece.next).first(8), each);

  const KldOutcome anew =
      RunKld(DefaultModel(), piece, {&plans[3], 1}, Compression::kWhileReading, options).front();
  EXPECT_EQ(anew.entries, outcomes[3].entries);
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(anew.divergence[i], outcomes[3].divergence[i]);
}

}  // namespace
}  // namespace pith
