#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "pith/error.h"
#include "pith/generate.h"

namespace pith {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Everything off but what a test turns on.
SamplingOptions Plain(float temperature) {
  SamplingOptions options;
  options.temperature = temperature;
  options.top_k = 0;
  options.top_p = 1.0f;
  options.min_p = 0.0f;
  return options;
}

std::vector<float> RandomLogits(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> logits(n);
  for (float& logit : logits) logit = static_cast<float>(random() % 6000) / 1000.0f - 3.0f;
  return logits;
}

std::vector<double> Softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> p(logits.size());
  const double top = *std::max_element(logits.begin(), logits.end());
  for (size_t i = 0; i < p.size(); ++i) p[i] = std::exp((logits[i] - top) / temperature);
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= sum;
  return p;
}

// The probabilities after `allowed` has ruled tokens out.
std::vector<double> Restricted(const std::vector<float>& logits, double temperature,
                               const std::set<Token>& allowed) {
  std::vector<double> p = Softmax(logits, temperature);
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    if (!allowed.contains(static_cast<Token>(i))) p[i] = 0;
    sum += p[i];
  }
  for (double& value : p) value /= sum;
  return p;
}

// Five standard deviations of a binomial count: a right sampler fails once in about two million.
void ExpectDistribution(const SamplingOptions& options, const std::vector<float>& logits,
                        const std::vector<double>& expected) {
  constexpr int kDraws = 20000;
  Sampler sampler(options);
  std::vector<int> counts(logits.size(), 0);
  for (int i = 0; i < kDraws; ++i) {
    const Token token = sampler.Sample(logits);
    ASSERT_GE(token, 0);
    ASSERT_LT(static_cast<size_t>(token), logits.size());
    ++counts[static_cast<size_t>(token)];
  }
  for (size_t i = 0; i < counts.size(); ++i) {
    const double mean = kDraws * expected[i];
    const double bound = 5 * std::sqrt(mean * (1 - expected[i]));
    EXPECT_LE(std::abs(counts[i] - mean), bound) << "token " << i << " p " << expected[i];
  }
}

// Tokens from the likeliest down, equal ones by id.
std::vector<Token> Ranking(const std::vector<float>& logits) {
  std::vector<Token> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](Token a, Token b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  return order;
}

TEST(SamplerTest, GreedyTakesTheLikeliestAndTheLowestIdAmongEquals) {
  Sampler sampler{SamplingOptions{}};
  EXPECT_EQ(sampler.Sample(std::vector<float>{-3, 1, 5, 2}), 2);
  EXPECT_EQ(sampler.Sample(std::vector<float>{0, 7, 7, 7}), 1);
  EXPECT_EQ(sampler.Sample(std::vector<float>{-kInf, -kInf, -8}), 2);
  EXPECT_EQ(sampler.Sample(std::vector<float>{-1}), 0);
}

TEST(SamplerTest, FollowsTheSoftmaxAtEveryTemperature) {
  const std::vector<float> logits = RandomLogits(12, 1);
  for (float temperature : {0.3f, 1.0f, 2.5f}) {
    ExpectDistribution(Plain(temperature), logits, Softmax(logits, temperature));
  }
}

TEST(SamplerTest, TopKKeepsTheKLikeliest) {
  std::vector<float> logits = RandomLogits(12, 2);
  logits[9] = logits[3] = logits[5] = 2.9f;  // equal ones: the lowest ids stay
  const std::vector<Token> order = Ranking(logits);
  for (int k : {1, 2, 5, 11, 12, 40}) {
    SamplingOptions options = Plain(0.9f);
    options.top_k = k;
    const auto n = std::min<std::ptrdiff_t>(k, 12);
    ExpectDistribution(options, logits,
                       Restricted(logits, 0.9f, {order.begin(), order.begin() + n}));
  }
}

TEST(SamplerTest, TopPKeepsTheFewestThatReachIt) {
  const std::vector<float> logits = RandomLogits(12, 3);
  const std::vector<double> p = Softmax(logits, 1.0);
  for (float top_p : {0.0f, 0.2f, 0.5f, 0.8f, 0.95f, 0.999f}) {
    // Brute force: the smallest number of likeliest tokens whose probabilities reach top_p.
    std::set<Token> allowed;
    double reached = 0;
    for (Token token : Ranking(logits)) {
      allowed.insert(token);
      reached += p[static_cast<size_t>(token)];
      if (reached >= top_p) break;
    }
    SamplingOptions options = Plain(0.7f);
    options.top_p = top_p;
    ExpectDistribution(options, logits, Restricted(logits, 0.7f, allowed));
  }
}

TEST(SamplerTest, MinPKeepsWhatIsLikelyEnoughBesideTheLikeliest) {
  const std::vector<float> logits = RandomLogits(12, 4);
  const std::vector<double> p = Softmax(logits, 1.0);
  const double top = *std::max_element(p.begin(), p.end());
  for (float min_p : {0.01f, 0.1f, 0.4f, 1.0f}) {
    std::set<Token> allowed;
    for (size_t i = 0; i < p.size(); ++i) {
      if (p[i] >= min_p * top) allowed.insert(static_cast<Token>(i));
    }
    SamplingOptions options = Plain(1.3f);
    options.min_p = min_p;
    ExpectDistribution(options, logits, Restricted(logits, 1.3f, allowed));
  }
}

TEST(SamplerTest, FiltersWorkOneAfterAnother) {
  const std::vector<float> logits = RandomLogits(12, 5);
  // Top-k first; top-p then reckons with the probabilities among those k.
  const std::vector<Token> order = Ranking(logits);
  const std::set<Token> six(order.begin(), order.begin() + 6);
  const std::vector<double> p = Restricted(logits, 1.0, six);
  std::set<Token> allowed;
  double reached = 0;
  for (Token token : order) {
    if (reached >= 0.9) break;
    if (p[static_cast<size_t>(token)] >= 0.15 * p[static_cast<size_t>(order[0])]) {
      allowed.insert(token);
    }
    reached += p[static_cast<size_t>(token)];
  }
  SamplingOptions options = Plain(1.5f);
  options.top_k = 6;
  options.top_p = 0.9f;
  options.min_p = 0.15f;
  ExpectDistribution(options, logits, Restricted(logits, 1.5f, allowed));
}

TEST(SamplerTest, ImpossibleTokensAreNeverDrawn) {
  const std::vector<float> logits = {-kInf, 0.0f, -kInf, 0.0f, -kInf};
  ExpectDistribution(Plain(1.0f), logits, {0, 0.5, 0, 0.5, 0});
}

TEST(SamplerTest, PenaltyDividesPositiveAndMultipliesNegativeLogitsOnce) {
  SamplingOptions options;
  options.repeat_penalty = 2.0f;
  Sampler sampler(options);
  const std::vector<float> logits = {4.0f, 3.0f, -1.0f};
  EXPECT_EQ(sampler.Sample(logits), 0);
  sampler.Accept(0);
  EXPECT_EQ(sampler.Sample(logits), 1);  // 2, 3, -1
  sampler.Accept(1);
  sampler.Accept(1);
  EXPECT_EQ(sampler.Sample(logits), 0);  // 2, 1.5, -1: twice seen is penalised once

  Sampler below(options);
  below.Accept(0);
  EXPECT_EQ(below.Sample(std::vector<float>{-1.0f, -1.5f}), 1);  // -2, -1.5
  below.Accept(99);
  below.Accept(-1);
  EXPECT_EQ(below.Sample(std::vector<float>{-1.0f, -1.5f}), 1);  // not in the vocabulary: no effect
}

TEST(SamplerTest, PenaltyForgetsAfterItsWindow) {
  SamplingOptions options;
  options.repeat_penalty = 10.0f;
  const std::vector<float> logits = {5.0f, 4.0f, 0.0f, 0.0f};
  const std::map<int, Token> expected = {{0, 0}, {1, 0}, {2, 0}, {3, 1}, {-1, 1}};
  for (const auto& [last_n, token] : expected) {
    options.repeat_last_n = last_n;
    Sampler sampler(options);
    for (Token seen : {0, 2, 3}) sampler.Accept(seen);
    EXPECT_EQ(sampler.Sample(logits), token) << "last " << last_n;
  }
}

TEST(SamplerTest, SeedDecidesTheDraws) {
  const std::vector<float> logits = RandomLogits(1000, 6);
  const auto draws = [&](uint64_t seed) {
    SamplingOptions options = Plain(1.0f);
    options.seed = seed;
    Sampler sampler(options);
    std::vector<Token> tokens;
    for (int i = 0; i < 50; ++i) tokens.push_back(sampler.Sample(logits));
    return tokens;
  };
  EXPECT_EQ(draws(7), draws(7));
  EXPECT_NE(draws(7), draws(8));
}

// The C++ standard fixes mt19937_64: its first output from seed 5489 is 14514284786278117030, which
// is 0.78682 of 2^64. With 1,024 equal tokens that is number 805 on every platform.
TEST(SamplerTest, DrawsAreTheSameOnEveryPlatform) {
  SamplingOptions options = Plain(1.0f);
  options.seed = 5489;
  Sampler sampler(options);
  EXPECT_EQ(sampler.Sample(std::vector<float>(1024, 0.25f)), 805);
}

TEST(SamplerTest, ExtremeLogitsStayFinite) {
  Sampler sampler(Plain(1.0f));
  const float huge = std::numeric_limits<float>::max();
  EXPECT_EQ(sampler.Sample(std::vector<float>{-huge, huge, 0.0f}), 1);
  Sampler tiny(Plain(1e-30f));
  EXPECT_EQ(tiny.Sample(std::vector<float>{1.0f, 1.001f, -5.0f}), 1);
}

TEST(SamplerTest, RefusesLogitsThatAreNoNumbers) {
  const std::vector<std::vector<float>> bad = {{},           {kNan},       {1.0f, kNan, 2.0f},
                                               {kNan, 0.0f}, {0.0f, kInf}, {-kInf, -kInf}};
  for (float temperature : {0.0f, 1.0f}) {
    for (const std::vector<float>& logits : bad) {
      Sampler sampler(Plain(temperature));
      EXPECT_THROW(sampler.Sample(logits), Error) << logits.size() << " at " << temperature;
    }
  }
}

TEST(SamplerTest, RefusesOptionsOutOfRange) {
  const std::vector<std::function<void(SamplingOptions&)>> bad = {
      [](SamplingOptions& o) { o.temperature = -0.1f; },
      [](SamplingOptions& o) { o.temperature = kNan; },
      [](SamplingOptions& o) { o.temperature = kInf; },
      [](SamplingOptions& o) { o.top_k = -1; },
      [](SamplingOptions& o) { o.top_p = -0.5f; },
      [](SamplingOptions& o) { o.top_p = 1.5f; },
      [](SamplingOptions& o) { o.top_p = kNan; },
      [](SamplingOptions& o) { o.min_p = -0.5f; },
      [](SamplingOptions& o) { o.min_p = 1.01f; },
      [](SamplingOptions& o) { o.repeat_penalty = 0.0f; },
      [](SamplingOptions& o) { o.repeat_penalty = kNan; },
      [](SamplingOptions& o) { o.repeat_last_n = -2; },
  };
  for (size_t i = 0; i < bad.size(); ++i) {
    SamplingOptions options;
    bad[i](options);
    try {
      Sampler sampler(options);
      ADD_FAILURE() << "case " << i << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument) << i;
    }
  }
}

}  // namespace
}  // namespace pith
