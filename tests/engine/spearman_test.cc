// Q-Filters of the default model rank entries by the attention they will receive, on text that its
// calibration did not see (arXiv 2503.02812, section 4).
#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "engine/default_model.h"
#include "engine/rank_correlation.h"
#include "engine/session_impl.h"
#include "pith/calibration.h"
#include "scorers/scorer.h"

namespace pith {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

TEST(Spearman, IsRightOnKnownValues) {
  EXPECT_DOUBLE_EQ(Spearman({1, 2, 3, 4}, {10, 20, 30, 40}), 1);
  EXPECT_DOUBLE_EQ(Spearman({1, 2, 3, 4}, {4, 3, 2, 1}), -1);
  EXPECT_NEAR(Spearman({1, 2, 3, 4, 5}, {5, 6, 7, 8, 7}), 0.8207826817, 1e-9);
}

TEST(Spearman, QFiltersFollowReceivedAttentionAndKeyNormsDoNot) {
  constexpr int kTokens = 1024;
  const ModelInfo& info = DefaultModel().info();
  const int group = info.n_heads / info.n_kv_heads;
  Session session(DefaultModel(), {}, {.n_threads = 2});
  std::vector<Matrix> queries(info.n_layers, Matrix(kTokens, info.n_heads * info.head_dim));
  session.impl().SetQueryTap([&](int layer, int32_t first, int n, const float* q) {
    queries[layer].middleRows(first, n) =
        Eigen::Map<const Matrix>(q, n, info.n_heads * info.head_dim);
  });
  session.Read(EssayTokens("worked", kTokens));

  Plan plan;
  plan.keep = Keep::Parse("512");
  plan.calibration = std::make_shared<Calibration>(Calibration::Load(PITH_DEFAULT_CALIBRATION));
  const auto qfilter = MakeScorer(plan, info);
  plan.scorer = "knorm";
  const auto knorm = MakeScorer(plan, info);

  std::vector<int32_t> positions(kTokens);
  std::iota(positions.begin(), positions.end(), 0);
  double qfilter_sum = 0, knorm_sum = 0;
  for (int layer = 0; layer < info.n_layers; ++layer) {
    for (int h = 0; h < info.n_kv_heads; ++h) {
      Matrix keys(kTokens, info.head_dim), values(kTokens, info.head_dim);
      for (int i = 0; i < kTokens; ++i) {  // nothing was evicted, so entry i is position i
        session.impl().cache.Read(layer, h, i, keys.row(i).data(), values.row(i).data());
      }
      // What entry i receives: the mean of its weights over the queries that see it.
      std::vector<double> received(kTokens, 0.0);
      for (int g = 0; g < group; ++g) {
        const int head = h * group + g;
        Matrix weights = queries[layer].middleCols(head * info.head_dim, info.head_dim) *
                         keys.transpose() / std::sqrt(static_cast<float>(info.head_dim));
        for (int t = 0; t < kTokens; ++t) {
          auto seen = weights.row(t).head(t + 1);
          seen = (seen.array() - seen.maxCoeff()).exp().matrix();
          seen /= seen.sum();
          for (int i = 0; i <= t; ++i) received[i] += seen(i) / (kTokens - i);
        }
      }
      const size_t dim = static_cast<size_t>(info.head_dim);
      std::vector<float> worth(kTokens);
      const Entries entries{layer,
                            h,
                            positions,
                            {keys.data(), kTokens, dim, dim},
                            {values.data(), kTokens, dim, dim}};
      qfilter->Score(entries, worth);
      qfilter_sum += Spearman({worth.begin(), worth.end()}, received);
      knorm->Score(entries, worth);
      knorm_sum += Spearman({worth.begin(), worth.end()}, received);
    }
  }
  const double n_heads = info.n_layers * info.n_kv_heads;
  std::printf("Spearman with received attention: Q-Filters %.3f, K-norm %.3f\n",
              qfilter_sum / n_heads, knorm_sum / n_heads);
  EXPECT_TRUE(qfilter_sum / n_heads >= 0.70);
  EXPECT_TRUE(qfilter_sum / n_heads > knorm_sum / n_heads + 0.3);
}

}  // namespace
}  // namespace pith
