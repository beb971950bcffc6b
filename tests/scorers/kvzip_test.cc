// KVzip and KVzip+ against arrays made by their definition, and at the ends of their range.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/safetensors.h"
#include "scorers/scorer.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr float kHighest = std::numeric_limits<float>::max();

std::unique_ptr<Scorer> Make(const std::string& name) {
  Plan plan;
  plan.scorer = name;
  plan.keep = Keep::Parse("25%");
  return MakeScorer(plan, ModelInfo{});
}

// Arrays of one layer: 3 KV heads, 3 query heads each, 128 entries, 136 queries that repeat them.
struct GoldenLayer {
  static constexpr size_t kHeads = 9, kGroup = 3, kEntries = 128, kQueries = 136, kHeadDim = 64;
  std::vector<float> q, k_context, k_repeat, value_norm, hidden_norm, kvzip, kvzip_plus;

  explicit GoldenLayer(int layer) {
    const SafeTensors file =
        SafeTensors::Open(PITH_TEST_DATA "/kvzip_layer" + std::to_string(layer) + ".safetensors");
    q = file.Get("q_repeat").ToFloats();
    k_context = file.Get("k_context").ToFloats();
    k_repeat = file.Get("k_repeat").ToFloats();
    value_norm = file.Get("value_norm").ToFloats();
    hidden_norm = file.Get("hidden_norm").ToFloats();
    kvzip = file.Get("kvzip").ToFloats();
    kvzip_plus = file.Get("kvzip_plus").ToFloats();
  }

  double Logit(const std::vector<float>& keys, size_t row, size_t head, size_t query) const {
    double dot = 0;
    for (size_t d = 0; d < kHeadDim; ++d) {
      dot += static_cast<double>(keys[row * kHeadDim + d]) *
             q[(head * kQueries + query) * kHeadDim + d];
    }
    return dot / std::sqrt(static_cast<double>(kHeadDim));
  }

  // log2 of the largest probability, divided by the query's hidden norm if `plus`.
  // [kHeads, kEntries]
  std::vector<float> Log2Probability(bool plus) const {
    std::vector<float> out(kHeads * kEntries, -kInfinity);
    for (size_t head = 0; head < kHeads; ++head) {
      const size_t kv_head = head / kGroup;
      for (size_t j = 0; j < kQueries; ++j) {
        std::vector<double> logits;
        for (size_t i = 0; i < kEntries; ++i) {
          logits.push_back(Logit(k_context, kv_head * kEntries + i, head, j));
        }
        for (size_t i = 0; i <= j; ++i) {
          logits.push_back(Logit(k_repeat, kv_head * kQueries + i, head, j));
        }
        const double most = *std::max_element(logits.begin(), logits.end());
        double sum = 0;
        for (const double logit : logits) sum += std::exp(logit - most);
        const double taken_off = most + std::log(sum) + (plus ? std::log(hidden_norm[j]) : 0.0);
        for (size_t i = 0; i < kEntries; ++i) {
          float& best = out[head * kEntries + i];
          best = std::max(best, static_cast<float>((logits[i] - taken_off) / std::log(2.0)));
        }
      }
    }
    return out;
  }
};

class KvzipGolden : public ::testing::TestWithParam<int> {};

TEST_P(KvzipGolden, EqualsItsDefinition) {
  const GoldenLayer golden(GetParam());
  constexpr size_t kOfHead = GoldenLayer::kGroup * GoldenLayer::kEntries;
  for (const bool plus : {false, true}) {
    const auto scorer = Make(plus ? "kvzip+" : "kvzip");
    const std::vector<float>& want = plus ? golden.kvzip_plus : golden.kvzip;
    const std::vector<float> evidence = golden.Log2Probability(plus);
    for (size_t kv_head = 0; kv_head < 3; ++kv_head) {
      std::vector<float> worth(GoldenLayer::kEntries);
      RepeatEvidence of_head{static_cast<int>(GoldenLayer::kEntries),
                             static_cast<int>(GoldenLayer::kGroup),
                             std::span(evidence).subspan(kv_head * kOfHead, kOfHead),
                             {}};
      if (plus) {
        of_head.output_norm = std::span(golden.value_norm).subspan(kv_head * kOfHead, kOfHead);
      }
      scorer->JudgeRepeat(of_head, worth);
      for (size_t i = 0; i < worth.size(); ++i) {
        const double expected = want[kv_head * GoldenLayer::kEntries + i];
        const double error = std::abs(std::exp(static_cast<double>(worth[i])) - expected);
        ASSERT_TRUE(error <= 1e-5 * expected)
            << (plus ? "kvzip+" : "kvzip") << ", KV head " << kv_head << ", entry " << i << ": "
            << std::exp(worth[i]) << " instead of " << expected;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layers, KvzipGolden, ::testing::Values(3, 15));

TEST(Kvzip, WhatIsNotJudgedStays) {
  for (const char* name : {"kvzip", "kvzip+"}) {
    const auto scorer = Make(name);
    std::vector<float> worth(3);
    const std::vector<int32_t> positions = {0, 1, 2};
    scorer->Score({0, 0, positions, {}, {}}, worth);
    EXPECT_EQ(worth, std::vector<float>(3, kInfinity));
    EXPECT_TRUE(scorer->needs().repeat_pass);
    EXPECT_EQ(scorer->needs().output_norms, std::string(name) == "kvzip+");
  }
}

TEST(Kvzip, IsFiniteAtTheEndsOfItsRange) {
  const float nan = std::nanf("");
  // Two query heads of five entries.
  const std::vector<float> log2 = {-1000, -kInfinity, nan, kInfinity, nan,  //
                                   -2000, -kInfinity, -3,  0,         nan};
  const std::vector<float> norm = {0.5f, 1, 1, 1, 1,  //
                                   4,    0, 8, 2, 1};
  const RepeatEvidence evidence{5, 2, log2, norm};
  const float ln2 = std::log(2.0f);
  std::vector<float> worth(5);
  Make("kvzip")->JudgeRepeat(evidence, worth);
  EXPECT_FLOAT_EQ(worth[0], -1000 * ln2);  // 2^-1000 is no float
  EXPECT_EQ(worth[1], kLowest);
  EXPECT_FLOAT_EQ(worth[2], -3 * ln2);
  EXPECT_EQ(worth[3], kHighest);  // +infinity would mean "never evicted"
  EXPECT_EQ(worth[4], kLowest);
  Make("kvzip+")->JudgeRepeat(evidence, worth);
  EXPECT_FLOAT_EQ(worth[0], -1001 * ln2);
  EXPECT_EQ(worth[1], kLowest);
  EXPECT_NEAR(worth[2], 0.0f, 1e-6);
  EXPECT_EQ(worth[3], kHighest);
  EXPECT_EQ(worth[4], kLowest);
}

TEST(Kvzip, TheWeightDecidesBeforeTheMaximum) {
  // The first head attends more, the second writes more.
  const std::vector<float> log2 = {-1, -3}, norm = {1, 16};
  float worth = 0;
  Make("kvzip")->JudgeRepeat({1, 2, log2, norm}, {&worth, 1});
  EXPECT_FLOAT_EQ(worth, std::log(0.5f));
  Make("kvzip+")->JudgeRepeat({1, 2, log2, norm}, {&worth, 1});
  EXPECT_FLOAT_EQ(worth, std::log(2.0f));
}

TEST(Scorers, SayWhoseWorthsCanBeCompared) {
  for (const char* name : {"kvzip", "kvzip+", "streaming_llm", "random"}) {
    EXPECT_TRUE(Make(name)->comparable_across_heads()) << name;
  }
  EXPECT_FALSE(Make("knorm")->comparable_across_heads());
  for (const char* name : {"knorm", "streaming_llm", "random"}) {
    EXPECT_FALSE(Make(name)->needs().repeat_pass) << name;
    float worth = 0;
    testing::ExpectError(ErrorCode::kInvalidArgument, "when they are appended", [&] {
      Make(name)->JudgeRepeat({}, {&worth, 1});
    });
  }
}

}  // namespace
}  // namespace pith
