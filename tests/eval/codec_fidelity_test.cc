#include "eval/codec_fidelity.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "cache/hadamard.h"
#include "engine/session_impl.h"
#include "eval/key_coding.h"
#include "eval/small_model.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

using testing::ExpectError;
using testing::SmallModel;
using testing::SomePiece;

Plan Coded(const std::string& codec, int sinks = 0, int window = 0) {
  Plan plan;
  plan.key_codec = codec;
  plan.sinks = sinks;
  plan.window = window;
  return plan;
}

MatrixView<const float> View(const std::vector<float>& values, size_t cols) {
  return {values.data(), values.size() / cols, cols, cols};
}

TEST(ExactAttentionTest, IsRightOnKnownValues) {
  const std::vector<float> values = {1, 0, 0, 1};
  const std::vector<double> exact = {std::log(3.0), 0};  // weights of 3/4 and 1/4
  const std::vector<double> coded = {1, 1};
  const KeyFidelity found = ExactAttention(exact, View(values, 2)).Compare(coded);
  EXPECT_NEAR(found.cosine, 2 / std::sqrt(5.0), 1e-12);
  EXPECT_NEAR(found.divergence, 0.75 * std::log(1.5) + 0.25 * std::log(0.5), 1e-12);
  EXPECT_EQ(found.spearman, 0);
  EXPECT_EQ(found.top5, 1);
}

TEST(ExactAttentionTest, ComparesOrders) {
  std::vector<double> exact;
  for (int i = 0; i < 10; ++i) exact.push_back(i);
  const std::vector<float> values(10, 1.0f);
  const ExactAttention attention(exact, View(values, 1));
  std::vector<double> coded(exact.rbegin(), exact.rend());
  EXPECT_DOUBLE_EQ(attention.Compare(coded).spearman, -1);
  EXPECT_EQ(attention.Compare(coded).top5, 0);
  EXPECT_DOUBLE_EQ(attention.Compare(coded).cosine, 1);  // all values being the same
  coded = exact;
  std::swap(coded[4], coded[5]);
  EXPECT_NEAR(attention.Compare(coded).spearman, 1 - 6.0 * 2 / 990, 1e-12);
  EXPECT_EQ(attention.Compare(coded).top5, 0.8);
  // A constant is nothing to attention.
  for (double& score : coded = exact) score -= 700;
  const KeyFidelity same = attention.Compare(coded);
  EXPECT_NEAR(same.divergence, 0, 1e-9);
  EXPECT_DOUBLE_EQ(same.cosine, 1);
  EXPECT_DOUBLE_EQ(same.spearman, 1);
  EXPECT_EQ(same.top5, 1);
}

TEST(KeyCodingTest, Int2IsTheNearestOfFourLevels) {
  ModelInfo info;
  info.head_dim = 64;
  const auto coding = MakeKeyCoding(Coded("int2"), info);
  EXPECT_EQ(coding->key_bytes(), 20);
  std::mt19937 random(1);
  std::vector<float> levels(64);
  for (size_t i = 0; i < levels.size(); ++i) {
    levels[i] = (static_cast<float>(random() % 4) - 1.5f) * (i < 32 ? 0.5f : 4);
  }
  Hadamard(levels.data(), 64);
  const std::vector<float> same = coding->RoundTrip(0, View(levels, 64));
  for (size_t i = 0; i < levels.size(); ++i) EXPECT_NEAR(same[i], levels[i], 1e-5);
  EXPECT_EQ(coding->RoundTrip(0, View(std::vector<float>(64), 64)), std::vector<float>(64));
  // Max: four levels leave 0.1188 of a Gaussian's variance, a scale of its own for 32 less.
  std::normal_distribution<float> normal;
  std::vector<float> rows(64 * 500);
  for (float& x : rows) x = normal(random);
  const std::vector<float> back = coding->RoundTrip(0, View(rows, 64));
  double error = 0;
  for (size_t i = 0; i < rows.size(); ++i) error += std::pow(rows[i] - back[i], 2) / 64 / 500;
  EXPECT_LT(error, 0.1188);
  EXPECT_GT(error, 0.09);
}

TEST(KeyCodingTest, RefusesWhatIsNotThere) {
  const ModelInfo& info = SmallModel().info();
  ExpectError(ErrorCode::kInvalidArgument, "key codec 'q5' is not known",
              [&] { MakeKeyCoding(Coded("q5"), info); });
  ExpectError(ErrorCode::kInvalidArgument, "pith calibrate --codebooks pq4x8",
              [&] { MakeKeyCoding(Coded("pq4x8"), info); });
  EXPECT_EQ(KeyCodingNames(nullptr), (std::vector<std::string>{"q8", "q4", "int2"}));
}

// Two centroids of every subspace, -1 and 1, the others far away.
std::shared_ptr<const Calibration> SignBooks(const ModelInfo& info) {
  Calibration calibration;
  calibration.n_layers = info.n_layers;
  calibration.n_kv_heads = info.n_kv_heads;
  calibration.head_dim = info.head_dim;
  PqCodebooks books{info.n_layers, info.n_kv_heads, info.head_dim, {}, {}, {}};
  for (int head = 0; head < info.n_layers * info.n_kv_heads; ++head) {
    for (int i = 0; i < info.head_dim; ++i) {
      books.centre.push_back(0);
      for (int j = 0; j < info.head_dim; ++j) books.map.push_back(i == j ? 1.0f : 0.0f);
      std::vector<float>& centroids = books.centroids[fmt::format("pq4x{}", info.head_dim)];
      for (int k = 0; k < 16; ++k) centroids.push_back(k == 0 ? -1.0f : k == 1 ? 1.0f : 1000.0f);
    }
  }
  calibration.codebooks = std::move(books);
  return std::make_shared<const Calibration>(std::move(calibration));
}

TEST(RunCodecsTest, ReplacesKeysByWhatTheCodecMakesOfThem) {
  constexpr int kTokens = 150, kQueries = 3, kSinks = 2, kWindow = 5;
  const ModelInfo& info = SmallModel().info();
  const TextPiece piece = SomePiece(kTokens);
  std::vector<Plan> plans = {Coded("f16"),
                             Coded("q8"),
                             Coded("int2", kSinks, kWindow),
                             Coded("int2"),
                             Coded("int2", 0, kTokens),
                             Coded(fmt::format("pq4x{}", info.head_dim))};
  plans.back().calibration = SignBooks(info);
  const auto found =
      RunCodecs(SmallModel(), piece, plans, kQueries, {.n_batch = 64, .n_threads = 2});
  ASSERT_EQ(found.size(), plans.size());
  EXPECT_EQ(found[0].key_bytes, 2 * info.head_dim);
  EXPECT_EQ(found[5].key_bytes, info.head_dim / 2.0);

  Session session(SmallModel(), {}, {.n_threads = 1});
  std::vector<std::vector<float>> queries(static_cast<size_t>(info.n_layers));
  session.impl().SetQueryTap([&](int layer, int32_t, int n, const float* q) {
    queries[layer].insert(queries[layer].end(), q, q + n * info.n_heads * info.head_dim);
  });
  session.Read(piece.tokens);
  const auto int2 = MakeKeyCoding(Coded("int2"), info);
  const auto dim = static_cast<size_t>(info.head_dim);
  const int group = info.n_heads / info.n_kv_heads;
  for (int layer = 0; layer < info.n_layers; ++layer) {
    for (int h = 0; h < info.n_kv_heads; ++h) {
      for (const size_t exact : {0u, 4u}) {
        const KeyFidelity& same = found[exact].per_head[layer][h];
        EXPECT_DOUBLE_EQ(same.cosine, 1);
        EXPECT_NEAR(same.divergence, 0, 1e-12);
        EXPECT_DOUBLE_EQ(same.spearman, 1);
        EXPECT_DOUBLE_EQ(same.top5, 1);
      }
      EXPECT_GT(found[1].per_head[layer][h].spearman, 0.99);
      EXPECT_GT(found[1].per_head[layer][h].spearman, found[3].per_head[layer][h].spearman);

      std::vector<float> keys(kTokens * dim), values(kTokens * dim), coded, signs;
      for (size_t i = 0; i < kTokens; ++i) {
        session.impl().cache.Read(layer, h, static_cast<int64_t>(i), &keys[i * dim],
                                  &values[i * dim]);
      }
      coded = int2->RoundTrip(0, View(keys, dim));
      for (const float x : keys) signs.push_back(x < 0 ? -1.0f : 1.0f);
      KeyFidelity some, none;
      for (int query = 0; query < group * kQueries; ++query) {
        const int at = kTokens - kQueries + query / group;
        const float* q =
            &queries[layer]
                    [static_cast<size_t>(at * info.n_heads + h * group + query % group) * dim];
        const auto score = [&](const std::vector<float>& of, int i) {
          double dot = 0;
          for (size_t d = 0; d < dim; ++d)
            dot += double{q[d]} * of[static_cast<size_t>(i) * dim + d];
          return dot / std::sqrt(static_cast<double>(dim));
        };
        std::vector<double> exact, part, all;
        for (int i = 0; i <= at; ++i) {
          exact.push_back(score(keys, i));
          part.push_back(score(i < kSinks || i > at - kWindow ? keys : coded, i));
          all.push_back(score(signs, i));
        }
        const ExactAttention attention(exact,
                                       {values.data(), static_cast<size_t>(at) + 1, dim, dim});
        some.divergence += attention.Compare(part).divergence / (group * kQueries);
        some.cosine += attention.Compare(part).cosine / (group * kQueries);
        none.divergence += attention.Compare(all).divergence / (group * kQueries);
      }
      EXPECT_NEAR(found[2].per_head[layer][h].divergence, some.divergence,
                  1e-3 * some.divergence + 1e-6);
      EXPECT_NEAR(found[2].per_head[layer][h].cosine, some.cosine, 1e-4);
      EXPECT_NEAR(found[5].per_head[layer][h].divergence, none.divergence,
                  1e-3 * none.divergence + 1e-6);
    }
  }
  ExpectError(ErrorCode::kInvalidArgument, "151 queries of 150 tokens",
              [&] { RunCodecs(SmallModel(), piece, plans, 151, {.n_threads = 1}); });
}

}  // namespace
}  // namespace pith
