#include "eval/spearman.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "engine/default_model.h"
#include "engine/session_impl.h"
#include "eval/rank_correlation.h"
#include "eval/small_model.h"
#include "pith/calibration.h"
#include "scorers/scorer.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

using testing::SmallModel;
using testing::SomePiece;

Plan Judging(const std::string& scorer) {
  Plan plan;
  plan.scorer = scorer;
  plan.keep.kind = Keep::Kind::kFraction;
  plan.budget = "uniform";
  return plan;
}

double SpearmanOf(const std::vector<double>& a, const std::vector<double>& b) {
  return Spearman(a, b);
}

TEST(RankCorrelation, IsRightOnKnownValues) {
  EXPECT_DOUBLE_EQ(SpearmanOf({1, 2, 3, 4}, {10, 20, 30, 40}), 1);
  EXPECT_DOUBLE_EQ(SpearmanOf({1, 2, 3, 4}, {4, 3, 2, 1}), -1);
  EXPECT_NEAR(SpearmanOf({1, 2, 3, 4, 5}, {5, 6, 7, 8, 7}), 0.8207826817, 1e-9);
  EXPECT_EQ(SpearmanOf({1, 2, 3}, {5, 5, 5}), 0);
}

// The mean of the weights that entry i has for the queries `distance` or more tokens later, over
// the group, in double precision. [n - distance]
std::vector<double> Received(Session& session, const std::vector<float>& queries, int n, int layer,
                             int kv_head, int distance) {
  const ModelInfo& info = session.model().info();
  const int group = info.n_heads / info.n_kv_heads;
  std::vector<std::vector<float>> keys(n, std::vector<float>(info.head_dim));
  std::vector<float> value(info.head_dim);
  for (int i = 0; i < n; ++i) {
    session.impl().cache.Read(layer, kv_head, i, keys[i].data(), value.data());
  }
  std::vector<double> received(n - distance);
  for (int g = 0; g < group; ++g) {
    for (int t = distance; t < n; ++t) {
      const float* q = queries.data() + (t * info.n_heads + kv_head * group + g) * info.head_dim;
      std::vector<double> weight;
      double sum = 0;
      for (int i = 0; i <= t; ++i) {
        double dot = 0;
        for (int d = 0; d < info.head_dim; ++d) dot += static_cast<double>(q[d]) * keys[i][d];
        sum += weight.emplace_back(std::exp(dot / std::sqrt(static_cast<double>(info.head_dim))));
      }
      for (int i = 0; i <= t - distance; ++i) {
        received[i] += weight[i] / sum / (n - distance - i) / group;
      }
    }
  }
  return received;
}

TEST(SpearmanTest, IsThatOfWorthsAndReceivedAttention) {
  constexpr int kTokens = 150;
  TextPiece piece = SomePiece(kTokens);
  const ModelInfo& info = SmallModel().info();
  Session session(SmallModel(), Judging("knorm"), {.n_threads = 1});
  std::vector<std::vector<float>> queries(info.n_layers);
  session.impl().SetQueryTap([&](int layer, int32_t, int n, const float* q) {
    queries[layer].insert(queries[layer].end(), q, q + n * info.n_heads * info.head_dim);
  });
  session.Read(piece.tokens);
  const std::vector<Plan> plans = {Judging("knorm"), Judging("kvzip"), Judging("streaming_llm")};
  for (const int distance : {0, 20}) {
    const auto found =
        RunSpearman(SmallModel(), piece, plans, distance, {.n_batch = 64, .n_threads = 2});
    ASSERT_EQ(found.size(), 3u);
    for (int layer = 0; layer < info.n_layers; ++layer) {
      for (int h = 0; h < info.n_kv_heads; ++h) {
        const auto want = Received(session, queries[layer], kTokens, layer, h, distance);
        const auto worth = session.impl().cache.Entries(layer, h).worth.first(want.size());
        std::vector<double> by_position;
        for (size_t i = 0; i < want.size(); ++i) by_position.push_back(static_cast<double>(i));
        EXPECT_NEAR(found[0].per_head[layer][h], SpearmanOf({worth.begin(), worth.end()}, want),
                    0.01);
        EXPECT_NEAR(found[2].per_head[layer][h], SpearmanOf(by_position, want), 0.01);
      }
    }
    EXPECT_NE(found[1].per_head, found[0].per_head);
    EXPECT_GT(found[1].score_s, 0);
    EXPECT_EQ(found[1].entries, found[1].entries_full);
  }
  // What is pinned is not ranked.
  piece.opening.assign(piece.tokens.begin(), piece.tokens.begin() + 10);
  piece.tokens.erase(piece.tokens.begin(), piece.tokens.begin() + 10);
  const auto found = RunSpearman(SmallModel(), piece, plans, 0, {.n_threads = 1});
  const auto want = Received(session, queries[1], kTokens, 1, 0, 0);
  const auto worth = session.impl().cache.Entries(1, 0).worth;
  EXPECT_NEAR(found[0].per_head[1][0],
              SpearmanOf({worth.begin() + 10, worth.end()}, {want.begin() + 10, want.end()}), 0.01);
  testing::ExpectError(ErrorCode::kInvalidArgument, "smaller distance",
                       [&] { RunSpearman(SmallModel(), piece, plans, kTokens, {.n_threads = 1}); });
}

// Of the default model, on text that its calibration did not see (arXiv 2503.02812, section 4).
TEST(SpearmanTest, QFiltersFollowReceivedAttentionAndKeyNormsDoNot) {
  TextPiece piece;
  piece.tokens = EssayTokens("worked", 1024);
  std::vector<Plan> plans = {Judging("qfilter"), Judging("knorm")};
  plans[0].calibration = std::make_shared<Calibration>(Calibration::Load(PITH_DEFAULT_CALIBRATION));
  const auto found = RunSpearman(DefaultModel(), piece, plans, 0, {.n_threads = 1});
  std::printf("Spearman with received attention: Q-Filters %.3f, K-norm %.3f\n", found[0].mean(),
              found[1].mean());
  EXPECT_TRUE(found[0].mean() >= 0.70);
  EXPECT_TRUE(found[0].mean() > found[1].mean() + 0.3);
}

}  // namespace
}  // namespace pith
