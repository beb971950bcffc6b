// With nothing dropped, the engine computes what llama.cpp computes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "base/safetensors.h"
#include "engine/default_model.h"
#include "pith/session.h"

namespace pith {
namespace {

using Logits = std::vector<std::vector<float>>;

Logits LogitsOf(std::span<const Token> tokens, int n_batch, int n_threads = 1,
                const Plan& plan = {}) {
  Session session(DefaultModel(), plan, {.n_batch = n_batch, .n_threads = n_threads});
  Logits all;
  ReadOptions options;
  options.on_logits = [&](int64_t position, std::span<const float> logits) {
    EXPECT_EQ(position, static_cast<int64_t>(all.size()));
    all.emplace_back(logits.begin(), logits.end());
  };
  session.Read(tokens, options);
  EXPECT_TRUE(std::equal(all.back().begin(), all.back().end(), session.logits().begin()));
  return all;
}

std::vector<double> LogSoftmax(std::span<const float> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - max);
  std::vector<double> log_p;
  for (const float x : logits) log_p.push_back(x - max - std::log(sum));
  return log_p;
}

// KL(a || b) in nats.
double KlDivergence(std::span<const float> a, std::span<const float> b) {
  const auto p = LogSoftmax(a), q = LogSoftmax(b);
  double kl = 0;
  for (size_t i = 0; i < p.size(); ++i) kl += std::exp(p[i]) * (p[i] - q[i]);
  return kl;
}

TEST(Exact, LogitsAgreeWithLlamaCpp) {
  const SafeTensors golden = SafeTensors::Open(std::string(PITH_TEST_DATA) + "/logits.safetensors");
  const std::vector<Token> tokens = golden.Get("tokens").ToInts();
  const std::vector<float> nll = golden.Get("nll").ToFloats();
  const std::vector<int32_t> top_ids = golden.Get("top_ids").ToInts();
  const std::vector<float> top_logprobs = golden.Get("top_logprobs").ToFloats();
  ASSERT_EQ(tokens.size(), 512u);

  const Logits logits = LogitsOf(tokens, 512);
  double mean_nll = 0, golden_nll = 0, mean_kl = 0;
  int same_top = 0, clear = 0, same_clear = 0;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const auto log_p = LogSoftmax(logits[t]);
    if (t + 1 < tokens.size()) {
      mean_nll -= log_p[tokens[t + 1]];
      golden_nll += nll[t];
    }
    // Over the golden top 32, both sides normalised over those.
    double golden_mass = 0, mass = 0, kl = 0;
    for (int i = 0; i < 32; ++i) {
      golden_mass += std::exp(top_logprobs[t * 32 + i]);
      mass += std::exp(log_p[top_ids[t * 32 + i]]);
    }
    for (int i = 0; i < 32; ++i) {
      const double p = std::exp(top_logprobs[t * 32 + i]) / golden_mass;
      kl += p * (std::log(p) - log_p[top_ids[t * 32 + i]] + std::log(mass));
    }
    mean_kl += kl;
    const bool same =
        std::max_element(logits[t].begin(), logits[t].end()) - logits[t].begin() == top_ids[t * 32];
    same_top += same;
    if (top_logprobs[t * 32] - top_logprobs[t * 32 + 1] > 0.2f) {
      ++clear;
      same_clear += same;
    }
  }
  mean_nll /= 511;
  golden_nll /= 511;
  mean_kl /= 512;
  std::printf(
      "mean NLL %.5f, llama.cpp %.5f; mean KL over its top 32 %.2e; same top %d of 512, "
      "%d of the %d that are no near tie\n",
      mean_nll, golden_nll, mean_kl, same_top, same_clear, clear);
  EXPECT_TRUE(std::abs(mean_nll - golden_nll) <= 0.02);
  EXPECT_TRUE(mean_kl >= 0 && mean_kl <= 0.01);
  // llama.cpp itself, on another machine than the golden file's, has the same top at 96.1 %: near
  // ties fall either way. Elsewhere the choice must be the same.
  EXPECT_GE(same_top, 512 * 94 / 100);
  EXPECT_GE(clear, 350);
  EXPECT_GE(same_clear, clear * 98 / 100);
}

// ggml rounds activations to 8 bits before they meet quantised weights, so that the last bit of a
// sum decides now and then about a whole step, and thirty layers make that a divergence of some
// 3e-3 nats: what llama.cpp has against its own golden logits on another machine
// (bench/golden_floor.py). architecture_test repeats this without that rounding.
constexpr double kQuantisedFloor = 3e-3;

TEST(Exact, ChunkingDoesNotMatter) {
  const auto tokens = EssayTokens("gap", 100);
  const Logits whole = LogitsOf(tokens, 512);
  for (const int n_batch : {1, 7, 64}) {
    const Logits chunked = LogitsOf(tokens, n_batch);
    double mean_kl = 0, max_kl = 0;
    for (size_t t = 0; t < tokens.size(); ++t) {
      const double kl = KlDivergence(whole[t], chunked[t]);
      ASSERT_TRUE(kl >= -1e-6);
      mean_kl += kl / static_cast<double>(tokens.size());
      max_kl = std::max(max_kl, kl);
    }
    std::printf("chunks of %d: mean KL %.2e, largest %.2e\n", n_batch, mean_kl, max_kl);
    EXPECT_TRUE(mean_kl <= 3 * kQuantisedFloor);
    EXPECT_TRUE(max_kl <= 30 * kQuantisedFloor);
  }
}

TEST(Exact, NextIsReadingOneToken) {
  const auto tokens = EssayTokens("gap", 40);
  const Logits read = LogitsOf(tokens, 1);
  Session session(DefaultModel(), {}, {.n_threads = 1});
  for (size_t t = 0; t < tokens.size(); ++t) {
    const auto logits = session.Next(tokens[t]);
    ASSERT_TRUE(std::equal(logits.begin(), logits.end(), read[t].begin())) << "token " << t;
  }
}

TEST(Exact, ThreadsDoNotMatter) {
  const auto tokens = EssayTokens("avg", 96);
  const Logits one = LogitsOf(tokens, 32, 1);
  const Logits three = LogitsOf(tokens, 32, 3);
  double mean_kl = 0;
  for (size_t t = 0; t < tokens.size(); ++t) mean_kl += KlDivergence(one[t], three[t]) / 96;
  EXPECT_TRUE(mean_kl <= 3 * kQuantisedFloor);
}

TEST(Exact, ABudgetThatIsNotReachedChangesNothing) {
  const auto tokens = EssayTokens("avg", 200);
  Plan plan;
  plan.keep = Keep::Parse("200");
  plan.scorer = "knorm";
  const Logits full = LogitsOf(tokens, 64);
  EXPECT_EQ(full, LogitsOf(tokens, 64, 1, plan));
  plan.keep = Keep::Parse("140");
  const Logits less = LogitsOf(tokens, 64, 1, plan);
  EXPECT_EQ(full[100], less[100]);
  EXPECT_NE(full[199], less[199]);
}

}  // namespace
}  // namespace pith
