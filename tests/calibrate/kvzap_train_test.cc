// Training on samples whose answer is known.
#include <gtest/gtest.h>

#include <ggml-cpu.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "calibrate/kvzap_layers.h"
#include "calibrate/kvzap_train.h"
#include "tools/expect_error.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::ExpectError;
using testing::TempFolder;

constexpr KvzapShape kShape{2, 24, 3};
constexpr int kRows = 120;

// Log scores of one row of hidden states.
using Truth = std::function<float(int layer, int head, const float* hidden)>;

float TrueWeight(int layer, int head, int i) {
  return 0.5f * std::sin(static_cast<float>(1 + layer * 100 + head * 31 + i * 7));
}
float TrueBias(int layer, int head) { return -4.0f + static_cast<float>(layer - head); }

float LinearTruth(int layer, int head, const float* hidden) {
  float sum = TrueBias(layer, head);
  for (int i = 0; i < kShape.n_embd; ++i) sum += TrueWeight(layer, head, i) * hidden[i];
  return sum;
}

KvzapShard MakeShard(const TempFolder& folder, const std::string& name, uint64_t seed,
                     const Truth& truth, double noise) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> halves(size_t{1} * kShape.n_layers * kRows * kShape.n_embd);
  std::vector<float> scores(size_t{1} * kShape.n_layers * kShape.n_kv_heads * kRows);
  std::vector<float> row(static_cast<size_t>(kShape.n_embd));
  for (int layer = 0; layer < kShape.n_layers; ++layer) {
    for (int r = 0; r < kRows; ++r) {
      // One element far from zero, as models have them.
      for (int i = 0; i < kShape.n_embd; ++i) row[i] = normal(random) + (i == 5 ? 40.0f : 0.0f);
      uint16_t* half = halves.data() + size_t{1} * (layer * kRows + r) * kShape.n_embd;
      ggml_cpu_fp32_to_fp16(row.data(), half, kShape.n_embd);
      ggml_cpu_fp16_to_fp32(half, row.data(), kShape.n_embd);
      for (int h = 0; h < kShape.n_kv_heads; ++h) {
        scores[size_t{1} * (layer * kShape.n_kv_heads + h) * kRows + r] =
            truth(layer, h, row.data()) + static_cast<float>(noise) * normal(random);
      }
    }
  }
  KvzapShard::Write(folder / name, kShape, kRows, halves, scores, name);
  return KvzapShard::Open(folder / name, kShape, name);
}

KvzapSplits MakeSplits(const TempFolder& folder, int n_train, const Truth& truth, double noise) {
  KvzapSplits splits;
  for (int i = 0; i < n_train; ++i) {
    splits.train.push_back(
        MakeShard(folder, "t" + std::to_string(i), 10 + static_cast<uint64_t>(i), truth, noise));
  }
  splits.validation.push_back(MakeShard(folder, "v", 1, truth, noise));
  splits.held_out.push_back(MakeShard(folder, "h", 2, truth, noise));
  return splits;
}

TEST(KvzapTrain, RidgeRecoversTheWeights) {
  const TempFolder folder;
  const KvzapSplits splits = MakeSplits(folder, 4, LinearTruth, 0);
  const KvzapFit fit = FitKvzapLinear(kShape, splits, {.n_threads = 2});
  EXPECT_EQ(fit.penalty, 1e-5);
  for (int layer = 0; layer < kShape.n_layers; ++layer) {
    const KvzapLayer& l = fit.surrogate.layers[layer];
    for (int h = 0; h < kShape.n_kv_heads; ++h) {
      for (int i = 0; i < kShape.n_embd; ++i) {
        EXPECT_NEAR(l.weight[h * kShape.n_embd + i], TrueWeight(layer, h, i), 1e-3);
      }
      EXPECT_GT(fit.r2[layer * kShape.n_kv_heads + h], 0.9999f);
    }
  }
  const std::vector<float>& quantiles = fit.surrogate.quantiles;
  ASSERT_EQ(quantiles.size(), 257u);
  EXPECT_TRUE(std::is_sorted(quantiles.begin(), quantiles.end()));
  EXPECT_LT(quantiles.front(), quantiles[128]);
}

TEST(KvzapTrain, ThePenaltyGrowsWithNoise) {
  const TempFolder folder;
  // Fewer samples than would pin the weights down, and nothing in them to learn.
  const Truth nothing = [](int, int, const float*) { return -3.0f; };
  const KvzapFit fit = FitKvzapLinear(kShape, MakeSplits(folder, 1, nothing, 1), {.n_threads = 1});
  EXPECT_GE(fit.penalty, 0.1);
  for (const float r2 : fit.r2) EXPECT_LT(r2, 0.2f);
}

TEST(KvzapTrain, TheNetworkLearnsWhatALineCannot) {
  const TempFolder folder;
  const Truth bent = [](int layer, int head, const float* hidden) {
    return -5 + 2 * std::abs(hidden[head + layer]) + hidden[7];
  };
  const KvzapSplits splits = MakeSplits(folder, 40, bent, 0.1);
  const auto mean = [](const std::vector<float>& r2) {
    return std::accumulate(r2.begin(), r2.end(), 0.0) / static_cast<double>(r2.size());
  };
  KvzapTraining training{.epochs = 60, .seed = 7, .n_threads = 1, .n_hidden = 16};
  const KvzapFit network = FitKvzapMlp(kShape, splits, training);
  const KvzapFit line = FitKvzapLinear(kShape, splits, training);
  EXPECT_LT(mean(line.r2), 0.6);
  EXPECT_GT(mean(network.r2), 0.85);
  EXPECT_EQ(network.surrogate.n_hidden, 16);
  // The same whatever the number of threads.
  training.n_threads = 2;
  const KvzapFit again = FitKvzapMlp(kShape, splits, training);
  EXPECT_EQ(again.surrogate.layers[1].weight_in, network.surrogate.layers[1].weight_in);
  EXPECT_EQ(again.r2, network.r2);
}

TEST(KvzapTrain, GeluHasItsSlope) {
  for (const float x : {-3.0f, -0.7f, 0.0f, 0.4f, 2.5f}) {
    const double h = 1e-3;
    const double up = 0.5 * (x + h) * (1 + std::erf((x + h) / std::sqrt(2.0)));
    const double down = 0.5 * (x - h) * (1 + std::erf((x - h) / std::sqrt(2.0)));
    EXPECT_NEAR(ExactGeluSlope(x), (up - down) / (2 * h), 1e-5) << x;
    EXPECT_NEAR(ExactGelu(x), 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))), 1e-6) << x;
  }
}

TEST(KvzapTrain, RefusesForeignShardsAndCancels) {
  const TempFolder folder;
  MakeShard(folder, "a", 1, LinearTruth, 0);
  ExpectError(ErrorCode::kMismatch, "of another harvest (a), expected b",
              [&] { KvzapShard::Open(folder / "a", kShape, "b"); });
  ExpectError(ErrorCode::kFormat, "not a shard of 3 layers", [&] {
    KvzapShard::Open(folder / "a", {3, 24, 3}, "a");
  });
  const KvzapSplits splits = MakeSplits(folder, 1, LinearTruth, 0);
  const auto never = [](int64_t, int64_t) { return false; };
  ExpectError(ErrorCode::kCancelled, "cancelled",
              [&] { FitKvzapLinear(kShape, splits, {.n_threads = 2}, never); });
  const Truth nan = [](int, int, const float*) { return NAN; };
  ExpectError(ErrorCode::kFormat, "not finite",
              [&] { FitKvzapLinear(kShape, MakeSplits(folder, 1, nan, 0), {.n_threads = 1}); });
}

}  // namespace
}  // namespace pith
