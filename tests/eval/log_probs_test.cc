#include "eval/log_probs.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

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

TEST(DivergenceTest, LongDistributionsAreAsExact) {
  constexpr size_t kSize = 1003;  // no multiple of any vector
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal(0, 8);
  std::vector<float> p(kSize), q(kSize);
  for (size_t i = 0; i < kSize; ++i) p[i] = normal(random), q[i] = normal(random);
  p[17] = -std::numeric_limits<float>::infinity();
  const auto log_sum = [](const std::vector<float>& logits) {
    long double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<long double>(logit));
    return std::log(sum);
  };
  const std::vector<double> log_p = LogSoftmaxOf(p), log_q = LogSoftmaxOf(q);
  long double divergence = 0;
  for (size_t i = 0; i < kSize; ++i) {
    if (i == 17) continue;
    const long double lp = p[i] - log_sum(p), lq = q[i] - log_sum(q);
    EXPECT_NEAR(log_p[i], static_cast<double>(lp), 1e-13);
    divergence += std::exp(lp) * (lp - lq);
  }
  EXPECT_NEAR(Divergence(log_p, log_q), static_cast<double>(divergence), 1e-12);
  for (const size_t at : {size_t{5}, kSize - 1}) {  // within a vector, and after the last
    std::vector<double> damaged = log_p;
    damaged[at] = NAN;
    EXPECT_TRUE(std::isnan(Divergence(damaged, log_q)));
    EXPECT_TRUE(std::isnan(Divergence(log_p, [&] {
      std::vector<double> other = log_q;
      other[at] = NAN;
      return other;
    }())));
    std::vector<float> logits = p;
    logits[at] = NAN;
    EXPECT_THROW(NegativeLogLikelihood(logits, 3), Error);
  }
}

TEST(NegativeLogLikelihoodTest, IsThatOfTheDistribution) {
  const std::vector<float> logits = {0, 1, -2};
  for (Token token = 0; token < 3; ++token) {
    EXPECT_NEAR(NegativeLogLikelihood(logits, token),
                -LogSoftmaxOf(logits)[static_cast<size_t>(token)], 1e-15);
  }
  const std::vector<float> impossible = {0, -std::numeric_limits<float>::infinity()};
  EXPECT_THROW(NegativeLogLikelihood(impossible, 1), Error);
  EXPECT_THROW(NegativeLogLikelihood(std::vector<float>{0, NAN}, 0), Error);
}

}  // namespace
}  // namespace pith
