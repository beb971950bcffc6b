// Judging from the hidden state while reading and writing, and making the surrogate for it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "calibrate/kvzap_layers.h"
#include "engine/harvest.h"
#include "engine/session_impl.h"
#include "tools/expect_error.h"
#include "tools/random_gguf.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::ExpectError;
using testing::TempFolder;

const Model& SmallModel() {
  static const TempFolder folder;
  static const Model model = [] {
    testing::RandomGguf gguf;
    gguf.n_layers = 3;
    gguf.n_ctx = 2048;
    testing::WriteRandomGguf(gguf, folder / "small.gguf");
    return Model::Load(folder / "small.gguf");
  }();
  return model;
}

std::vector<Token> Text(size_t n) {
  std::vector<Token> tokens;
  uint64_t state = 1;
  for (size_t i = 0; i < n; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    tokens.push_back(static_cast<Token>((state >> 33) % 200));
  }
  return tokens;
}

// Gives scores spread around -5, by weights that look random.
std::shared_ptr<const Calibration> MakeCalibration(const ModelInfo& info, int n_hidden) {
  auto calibration = std::make_shared<Calibration>();
  KvzapSurrogate& surrogate = calibration->kvzap.emplace();
  surrogate.n_embd = info.n_embd;
  surrogate.n_kv_heads = info.n_kv_heads;
  surrogate.n_hidden = n_hidden;
  const auto wave = [&](int n, float scale, float phase) {
    std::vector<float> values;
    for (int i = 0; i < n; ++i) {
      values.push_back(scale * std::sin(phase + 1.7f * static_cast<float>(i * i % 97)));
    }
    return values;
  };
  for (int i = 0; i < info.n_layers; ++i) {
    KvzapLayer& layer = surrogate.layers.emplace_back();
    const float phase = static_cast<float>(i);
    if (n_hidden > 0) {
      layer.weight_in = wave(n_hidden * info.n_embd, 0.2f, phase);
      layer.bias_in = wave(n_hidden, 0.1f, phase);
    }
    layer.weight = wave(info.n_kv_heads * (n_hidden > 0 ? n_hidden : info.n_embd), 0.3f, phase);
    for (int h = 0; h < info.n_kv_heads; ++h) {
      layer.bias.push_back(-5 + 0.5f * static_cast<float>(h - i));
    }
  }
  return calibration;
}

Plan KvzapPlan(const std::string& keep, int n_hidden = 0) {
  Plan plan;
  plan.scorer = "kvzap";
  plan.keep = Keep::Parse(keep);
  plan.window = 32;
  plan.calibration = MakeCalibration(SmallModel().info(), n_hidden);
  return plan;
}

TEST(Kvzap, WorthIsThatOfTheHiddenState) {
  const ModelInfo& info = SmallModel().info();
  for (const int n_hidden : {0, 8}) {
    for (const int n_threads : {1, 2}) {
      Plan plan = KvzapPlan("50%", n_hidden);
      plan.keep.fraction = 1;  // judges and evicts nothing
      Session session(SmallModel(), plan, {.n_batch = 50, .n_threads = n_threads});
      std::vector<RowMatrix> seen(static_cast<size_t>(info.n_layers));
      session.impl().SetHiddenTap([&](int layer, int32_t first, int n, const float* rows) {
        ASSERT_EQ(seen[layer].rows(), first);
        RowMatrix all(first + n, info.n_embd);
        if (first > 0) all.topRows(first) = seen[layer];
        all.bottomRows(n) = Eigen::Map<const RowMatrix>(rows, n, info.n_embd);
        seen[layer] = all;
      });
      session.Read(Text(130));
      for (const Token token : Text(5)) session.Next(token);
      for (int layer = 0; layer < info.n_layers; ++layer) {
        ASSERT_EQ(seen[layer].rows(), 135);
        const RowMatrix want = Predict(*plan.calibration->kvzap, layer, seen[layer]);
        for (int h = 0; h < info.n_kv_heads; ++h) {
          const HeadEntries entries = session.impl().cache.Entries(layer, h);
          ASSERT_EQ(entries.worth.size(), 135u);
          for (int i = 0; i < 135; ++i) {
            EXPECT_NEAR(entries.worth[i], want(i, h), 1e-4) << layer << " " << h << " " << i;
          }
        }
      }
    }
  }
}

// What tau allows is what stays, outside sinks and window.
void ExpectThreshold(const Session& session, double tau, int32_t slack) {
  const Plan& plan = session.plan();
  const auto& cache = const_cast<Session&>(session).impl().cache;
  const int32_t window_begin = static_cast<int32_t>(session.n_read()) - plan.window - slack;
  for (int layer = 0; layer < cache.shape().n_layers; ++layer) {
    for (int h = 0; h < cache.shape().n_kv_heads; ++h) {
      const HeadEntries entries = cache.Entries(layer, h);
      int64_t n_protected = 0;
      for (size_t i = 0; i < entries.positions.size(); ++i) {
        const int32_t position = entries.positions[i];
        n_protected += position < plan.sinks || position >= session.n_read() - plan.window;
        if (position >= plan.sinks && position < window_begin) {
          EXPECT_GE(entries.worth[i], tau);
        }
      }
      EXPECT_EQ(n_protected, plan.sinks + plan.window);
    }
  }
}

TEST(Kvzap, ThresholdHoldsWhileReadingAndWriting) {
  for (const int n_hidden : {0, 8}) {
    Session session(SmallModel(), KvzapPlan("tau=-5", n_hidden), {.n_batch = 64, .n_threads = 2});
    session.Read(Text(600));
    ExpectThreshold(session, -5, 0);
    CacheStats stats = session.stats();
    const auto [least, most] =
        std::minmax_element(stats.heads.begin(), stats.heads.end(),
                            [](const auto& a, const auto& b) { return a.entries < b.entries; });
    EXPECT_GT(most->entries, least->entries);
    EXPECT_LT(stats.entries, stats.entries_full);
    for (const Token token : Text(150)) session.Next(token);
    ExpectThreshold(session, -5, 32);
    EXPECT_LT(session.stats().entries - stats.entries, (stats.entries_full * 150) / 600);
  }
}

TEST(Kvzap, TausBeyondAllKeepEverythingOrOnlySinksAndWindow) {
  Session all(SmallModel(), KvzapPlan("tau=-1000"), {.n_batch = 64, .n_threads = 1});
  all.Read(Text(300));
  EXPECT_EQ(all.stats().entries, all.stats().entries_full);
  Session none(SmallModel(), KvzapPlan("tau=1000"), {.n_batch = 64, .n_threads = 1});
  none.Read(Text(300));
  for (const HeadStats& head : none.stats().heads) EXPECT_EQ(head.entries, 4 + 32);
}

TEST(Kvzap, AFractionIsMetByAllHeadsTogetherAndThePeakStaysBelowTheFull) {
  Session session(SmallModel(), KvzapPlan("25%"), {.n_batch = 64, .n_threads = 2});
  session.Read(Text(1600));
  const CacheStats stats = session.stats();
  EXPECT_EQ(stats.entries, 400 * static_cast<int64_t>(stats.heads.size()));
  Session full(SmallModel(), {}, {.n_batch = 64, .n_threads = 2});
  full.Read(Text(1600));
  EXPECT_LT(stats.kv_bytes_peak, full.stats().kv_bytes_peak / 2);
}

TEST(Kvzap, AForkWithAnotherSurrogateIsRefused) {
  Session session(SmallModel(), KvzapPlan("50%"), {.n_threads = 1});
  session.Read(Text(100));
  Session same = session.Fork(KvzapPlan("30%"));
  EXPECT_EQ(same.n_read(), 100);
  ExpectError(ErrorCode::kInvalidArgument, "another calibration",
              [&] { session.Fork(KvzapPlan("30%", 8)); });
}

std::vector<std::string> Documents() {
  std::vector<std::string> documents;
  for (int d = 0; d < 5; ++d) {
    std::string text;
    for (int i = 0; i < 40; ++i) text += "Day " + std::to_string(i * 7 + d) + " was calm. ";
    documents.push_back(text);
  }
  return documents;
}

KvzapOptions SmallOptions(const std::filesystem::path& folder) {
  KvzapOptions options;
  options.n_prompts = 6;
  options.min_tokens = 200;
  options.max_tokens = 300;
  options.n_positions = 60;
  options.n_threads = 1;
  options.work_folder = folder;
  return options;
}

std::string Bytes(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Harvest, PromptsAreWithinTheirRangesAndSplitByDocument) {
  const KvzapOptions options = SmallOptions("unused");
  const auto prompts =
      MakeHarvestPrompts(SmallModel().tokenizer(), Documents(), options, HarvestPlan().sinks);
  ASSERT_EQ(prompts.size(), 6u);
  std::map<size_t, Split> split_of;
  int n_with_facts = 0;
  for (const HarvestPrompt& prompt : prompts) {
    EXPECT_GE(prompt.tokens.size(), 200u);
    EXPECT_LE(prompt.tokens.size(), 300u);
    EXPECT_EQ(prompt.positions.size(), 60u);
    EXPECT_TRUE(std::is_sorted(prompt.positions.begin(), prompt.positions.end()));
    EXPECT_GE(prompt.positions.front(), 4);
    EXPECT_LT(prompt.positions.back(), static_cast<int32_t>(prompt.tokens.size()));
    EXPECT_EQ(split_of.try_emplace(prompt.document, prompt.split).first->second, prompt.split);
    n_with_facts += prompt.n_facts > 0;
  }
  EXPECT_EQ(n_with_facts, 2);
  EXPECT_EQ(std::count_if(prompts.begin(), prompts.end(),
                          [](const auto& p) { return p.split == Split::kTrain; }),
            4);
  const auto again =
      MakeHarvestPrompts(SmallModel().tokenizer(), Documents(), options, HarvestPlan().sinks);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(again[i].tokens, prompts[i].tokens);
}

TEST(Harvest, TakesHiddenStatesAndScoresOfTheSamePositions) {
  const TempFolder folder;
  const KvzapOptions options = SmallOptions(folder / "work");
  const auto prompts =
      MakeHarvestPrompts(SmallModel().tokenizer(), Documents(), options, HarvestPlan().sinks);
  const KvzapSplits splits = Harvest(SmallModel(), prompts, options, {});
  ASSERT_EQ(splits.train.size(), 4u);
  const ModelInfo& info = SmallModel().info();
  const HarvestPrompt& prompt = prompts[1];
  Session session(SmallModel(), HarvestPlan(), {.n_threads = 1});
  session.Read(prompt.tokens);
  std::vector<float> row(static_cast<size_t>(info.n_embd));
  for (int layer = 0; layer < info.n_layers; ++layer) {
    for (int h = 0; h < info.n_kv_heads; ++h) {
      const HeadEntries entries = session.impl().cache.Entries(layer, h);
      for (size_t i = 0; i < 60; ++i) {
        EXPECT_EQ(splits.train[1].LogScores(layer)[h * 60 + i], entries.worth[prompt.positions[i]]);
      }
    }
    splits.train[1].Hidden(layer, 59, 1, row.data());
    double norm = 0;
    for (const float x : row) norm += x * x;
    EXPECT_GT(norm, 0.1 * info.n_embd) << layer;  // normed rows, no zeros
  }
}

TEST(Harvest, GoesOnWhereItWasStopped) {
  const TempFolder folder;
  const auto calibrate = [&](const std::string& work, const Progress& progress) {
    Calibration calibration;
    KvzapProgress both;
    both.harvest = progress;
    CalibrateKvzap(SmallModel(), Documents(), SmallOptions(folder / work), calibration, both);
    return calibration;
  };
  const Calibration whole = calibrate("whole", {});
  int64_t n_calls = 0;
  ExpectError(ErrorCode::kCancelled, "cancelled", [&] {
    calibrate("cut", [&](int64_t done, int64_t total) { return ++n_calls, done < total / 2; });
  });
  const auto shard = [&](const char* work, int i) {
    return folder / work / ("prompt-0000" + std::to_string(i) + ".safetensors");
  };
  ASSERT_TRUE(std::filesystem::exists(shard("cut", 0)));
  ASSERT_FALSE(std::filesystem::exists(shard("cut", 5)));
  const auto written = std::filesystem::last_write_time(shard("cut", 0));
  int64_t total_left = 0, total_whole = 0;
  for (const auto& prompt : MakeHarvestPrompts(SmallModel().tokenizer(), Documents(),
                                               SmallOptions(folder / "cut"), HarvestPlan().sinks)) {
    total_whole += static_cast<int64_t>(prompt.tokens.size());
  }
  const Calibration resumed = calibrate("cut", [&](int64_t, int64_t total) {
    total_left = total;
    return true;
  });
  EXPECT_LT(total_left, total_whole);
  EXPECT_EQ(std::filesystem::last_write_time(shard("cut", 0)), written);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(Bytes(shard("cut", i)), Bytes(shard("whole", i))) << i;
  EXPECT_EQ(resumed.kvzap->layers[1].weight, whole.kvzap->layers[1].weight);
  EXPECT_EQ(resumed.metadata, whole.metadata);
  EXPECT_EQ(whole.metadata.at("kvzap_prompts"), "4 1 1");
  whole.CheckFits(SmallModel().info());
}

TEST(Harvest, RefusesSmallCorporaAndForeignFolders) {
  const TempFolder folder;
  Calibration calibration;
  const auto calibrate = [&](std::vector<std::string> documents, const KvzapOptions& options) {
    CalibrateKvzap(SmallModel(), documents, options, calibration);
  };
  const KvzapOptions options = SmallOptions(folder / "work");
  ExpectError(ErrorCode::kInvalidArgument, "the corpus has 2 documents of 200 tokens or more", [&] {
    auto documents = Documents();
    documents.resize(3);
    documents[1] = "short";
    calibrate(documents, options);
  });
  calibrate(Documents(), options);
  KvzapOptions other = options;
  other.seed = 43;
  ExpectError(ErrorCode::kMismatch, "another model, corpus or settings",
              [&] { calibrate(Documents(), other); });
  other = options;
  other.max_tokens = 2000;
  ExpectError(ErrorCode::kInvalidArgument, "do not fit into the model's context",
              [&] { calibrate(Documents(), other); });
  other = options;
  other.n_prompts = 2;
  ExpectError(ErrorCode::kInvalidArgument, "2 prompts", [&] { calibrate(Documents(), other); });
  other = options;
  other.work_folder.clear();
  ExpectError(ErrorCode::kInvalidArgument, "a folder", [&] { calibrate(Documents(), other); });
}

}  // namespace
}  // namespace pith
