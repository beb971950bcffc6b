// The surrogate of kvzap+: its file, and training on samples whose answer is known.
#include <gtest/gtest.h>

#include <ggml.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "base/safetensors.h"
#include "calibrate/kvzap_plus_train.h"
#include "tools/expect_error.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::ExpectError;
using testing::TempFolder;

constexpr KvzapShape kShape{2, 24, 3, 8};
constexpr int kRows = 150;
constexpr int kSeen = 130;
constexpr size_t kHeads = 6;  // of all layers

std::vector<float> Filters() {
  std::vector<float> filters;
  for (size_t i = 0; i < kHeads * 8; ++i) {
    filters.push_back(0.4f * std::sin(static_cast<float>(3 * i + 1)));
  }
  return filters;
}

float Wave(int target, size_t head, int i) {
  return 0.5f * std::sin(static_cast<float>(1 + target * 57) + static_cast<float>(head) * 31 +
                         static_cast<float>(i) * 7);
}

// Both targets are linear in what training is shown, with weights from Wave.
KvzapShard MakeShard(const TempFolder& folder, const std::string& name, uint64_t seed,
                     bool with_entries = true) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  const std::vector<float> filters = Filters();
  std::vector<uint16_t> hidden(size_t{2} * kRows * 24);
  // One element far from zero, as models have them.
  for (size_t i = 0; i < hidden.size(); ++i) {
    hidden[i] = ggml_fp32_to_fp16(normal(random) + (i % 24 == 5 ? 40.0f : 0.0f));
  }
  KvzapEntries entries;
  entries.log_repeat.resize(kHeads * kRows);
  entries.log_received.resize(kHeads * kSeen);
  for (size_t head = 0; head < kHeads; ++head) {
    for (size_t r = 0; r < kRows; ++r) {
      double along = 0, square = 0;
      for (size_t d = 0; d < 8; ++d) {
        entries.keys.push_back(ggml_fp32_to_fp16(3 * normal(random)));
        const double k = ggml_fp16_to_fp32(entries.keys.back());
        along += k * filters[head * 8 + d];
        square += k * k;
      }
      entries.log_value_norm.push_back(normal(random));
      for (int target = 0; target < 2; ++target) {
        double sum = -4 - target + Wave(target, head, 100) * along +
                     Wave(target, head, 101) * std::log(square) / 2 +
                     Wave(target, head, 102) * entries.log_value_norm.back();
        for (int i = 0; i < 24; ++i) {
          sum += Wave(target, head, i) * ggml_fp16_to_fp32(hidden[(head / 3 * kRows + r) * 24 + i]);
        }
        if (target == 0) entries.log_repeat[head * kRows + r] = static_cast<float>(sum);
        if (target == 1 && r < kSeen) {
          entries.log_received[head * kSeen + r] = static_cast<float>(sum);
        }
      }
    }
  }
  const std::vector<float> scores(kHeads * kRows, -3.0f);
  KvzapShard::Write(folder / name, kShape, kRows, hidden, scores, name,
                    with_entries ? entries : KvzapEntries());
  return KvzapShard::Open(folder / name, kShape, name);
}

KvzapSplits MakeSplits(const TempFolder& folder) {
  KvzapSplits splits;
  for (uint64_t i = 0; i < 3; ++i) {
    splits.train.push_back(MakeShard(folder, "t" + std::to_string(i), 10 + i));
  }
  splits.validation.push_back(MakeShard(folder, "v", 1));
  splits.held_out.push_back(MakeShard(folder, "h", 2));
  return splits;
}

TEST(KvzapPlusTrain, RecoversTheWeightsOfBothTargets) {
  const TempFolder folder;
  const KvzapSplits splits = MakeSplits(folder);
  EXPECT_EQ(splits.train[0].n_rows(), kRows);
  EXPECT_EQ(splits.train[0].n_seen(), kSeen);
  const std::vector<float> filters = Filters();
  const KvzapPlusFit fit = FitKvzapPlus(kShape, splits, filters, {.n_threads = 2});
  EXPECT_EQ(fit.penalty, 1e-5);
  ASSERT_EQ(fit.r2.size(), 2 * kHeads);
  for (const float r2 : fit.r2) EXPECT_GT(r2, 0.9999f);
  ASSERT_EQ(fit.surrogate.layers.size(), 2u);
  double shift = 0;
  for (const KvzapShard& shard : splits.train) {
    for (int head = 0; head < static_cast<int>(kHeads); ++head) {
      for (size_t r = 0; r < kSeen; ++r) {
        shift +=
            (shard.LogRepeat(head / 3, head % 3)[r] - shard.LogReceived(head / 3, head % 3)[r]) /
            static_cast<double>(splits.train.size() * kHeads * kSeen);
      }
    }
  }
  for (size_t head = 0; head < kHeads; ++head) {
    const KvzapPlusLayer& layer = fit.surrogate.layers[head / 3];
    for (int target = 0; target < 2; ++target) {
      const size_t row = static_cast<size_t>(target) * 3 + head % 3;
      // Element 5 is about 40, which multiplies what its weight is off by.
      const double off = 40 * (Wave(target, head, 5) - layer.weight[row * 24 + 5]);
      EXPECT_NEAR(layer.bias[row], (target == 0 ? -4 : -5 + shift) + off, 2e-2);
      for (int i = 0; i < 24; ++i) {
        EXPECT_NEAR(layer.weight[row * 24 + i], Wave(target, head, i), 2e-3);
      }
      for (size_t d = 0; d < 8; ++d) {
        EXPECT_NEAR(layer.key_weight[row * 8 + d], Wave(target, head, 100) * filters[head * 8 + d],
                    2e-3);
      }
      EXPECT_NEAR(layer.norm_weight[2 * row], Wave(target, head, 101), 5e-3);
      EXPECT_NEAR(layer.norm_weight[2 * row + 1], Wave(target, head, 102), 5e-3);
    }
  }
  const std::vector<float>& quantiles = fit.surrogate.quantiles;
  ASSERT_EQ(quantiles.size(), 257u);
  EXPECT_TRUE(std::is_sorted(quantiles.begin(), quantiles.end()));
  const KvzapPlusFit again = FitKvzapPlus(kShape, splits, filters, {.n_threads = 1});
  EXPECT_EQ(again.surrogate.layers[1].weight, fit.surrogate.layers[1].weight);
}

TEST(KvzapPlusTrain, RefusesSamplesWithoutEntries) {
  const TempFolder folder;
  KvzapSplits splits = MakeSplits(folder);
  splits.train.push_back(MakeShard(folder, "old", 5, false));
  EXPECT_EQ(splits.train.back().n_seen(), 0);
  ExpectError(ErrorCode::kMismatch, "hold no keys",
              [&] { FitKvzapPlus(kShape, splits, Filters(), {}); });
  // The plain surrogate needs none.
  EXPECT_EQ(FitKvzapLinear(kShape, splits, {}).surrogate.layers.size(), 2u);
  KvzapShape other = kShape;
  other.head_dim = 4;
  ExpectError(ErrorCode::kFormat, "keys is not",
              [&] { KvzapShard::Open(folder / "v", other, "v"); });
}

Calibration Saved() {
  Calibration saved;
  saved.n_layers = 2;
  saved.n_kv_heads = 3;
  saved.head_dim = 8;
  saved.q_filters = Filters();
  KvzapPlusSurrogate& plus = saved.kvzap_plus.emplace();
  plus.n_embd = 24;
  plus.n_kv_heads = 3;
  plus.head_dim = 8;
  for (float i : {1.0f, 2.0f}) {
    plus.layers.push_back({std::vector<float>(6 * 24, i / 4),
                           std::vector<float>(6 * 8, i / 3),
                           std::vector<float>(12, i / 2),
                           {i, 0.1f, 2, 3, 4, 5}});
  }
  plus.quantiles = {-7.7f, -3, 1};
  return saved;
}

TEST(KvzapPlusFile, ComesBackExactly) {
  const TempFolder folder;
  Calibration saved = Saved();
  for (const bool with_kvzap : {false, true}) {
    if (with_kvzap) {
      KvzapSurrogate& plain = saved.kvzap.emplace();
      plain.n_embd = 24;
      plain.n_kv_heads = 3;
      plain.layers.assign(2, {{}, {}, std::vector<float>(3 * 24, 0.5f), {1, 2, 3}});
    }
    saved.Save(folder / "a.pithcal");
    const Calibration loaded = Calibration::Load(folder / "a.pithcal");
    EXPECT_EQ(loaded.kvzap.has_value(), with_kvzap);
    EXPECT_EQ(loaded.q_filters, saved.q_filters);
    ASSERT_TRUE(loaded.kvzap_plus.has_value());
    const KvzapPlusSurrogate& plus = *loaded.kvzap_plus;
    EXPECT_EQ(plus.n_embd, 24);
    EXPECT_EQ(plus.n_kv_heads, 3);
    EXPECT_EQ(plus.head_dim, 8);
    EXPECT_EQ(plus.quantiles, saved.kvzap_plus->quantiles);
    ASSERT_EQ(plus.layers.size(), 2u);
    for (size_t i = 0; i < 2; ++i) {
      const KvzapPlusLayer& want = saved.kvzap_plus->layers[i];
      EXPECT_EQ(plus.layers[i].weight, want.weight);
      EXPECT_EQ(plus.layers[i].key_weight, want.key_weight);
      EXPECT_EQ(plus.layers[i].norm_weight, want.norm_weight);
      EXPECT_EQ(plus.layers[i].bias, want.bias);
    }
  }
  const SafeTensors tensors = SafeTensors::Open(folder / "a.pithcal");
  EXPECT_EQ(tensors.Get("kvzap_plus.layers.1.weight").dtype, "F16");
  EXPECT_EQ(tensors.Get("kvzap_plus.layers.1.key_weight").dtype, "F32");
}

TEST(KvzapPlusFile, RefusesWhatIsWrong) {
  const TempFolder folder;
  const auto refuse = [&](const std::string& message, const auto& damage) {
    Calibration saved = Saved();
    damage(*saved.kvzap_plus);
    saved.Save(folder / "bad.pithcal");
    ExpectError(ErrorCode::kFormat, message, [&] { Calibration::Load(folder / "bad.pithcal"); });
  };
  refuse("expected a finite number", [](auto& plus) { plus.layers[1].key_weight[3] = NAN; });
  refuse("ascending numbers", [](auto& plus) { plus.quantiles = {2, 1}; });

  Calibration saved = Saved();
  saved.Save(folder / "a.pithcal");
  const SafeTensors whole = SafeTensors::Open(folder / "a.pithcal");
  std::map<std::string, SafeTensor, std::less<>> tensors(whole.tensors().begin(),
                                                         whole.tensors().end());
  tensors.erase("kvzap_plus.layers.1.bias");
  WriteSafeTensors(folder / "b.pithcal", tensors, whole.metadata());
  ExpectError(ErrorCode::kFormat, "not the 4 of each of 1 layers",
              [&] { Calibration::Load(folder / "b.pithcal"); });
}

}  // namespace
}  // namespace pith
