// What later queries look at, against its definition in double precision, and in the harvest.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "calibrate/rope_layout.h"
#include "engine/harvest.h"
#include "engine/received.h"
#include "engine/session_impl.h"
#include "tools/random_gguf.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::TempFolder;

const Model& SmallModel() {
  static const TempFolder folder;
  static const Model model = [] {
    testing::RandomGguf gguf;
    gguf.n_layers = 2;
    gguf.n_ctx = 2048;
    testing::WriteRandomGguf(gguf, folder / "small.gguf");
    return Model::Load(folder / "small.gguf");
  }();
  return model;
}

// Everything that one reading shows of one layer.
struct Watched {
  std::vector<float> queries;  // [n, n_heads, head_dim]
  std::vector<float> hidden;   // [n, n_embd]
};

double DoubleLog(const Watched& watched, const ModelInfo& info, Session& session, int layer,
                 int kv_head, int64_t n, int32_t position) {
  const int group = info.n_heads / info.n_kv_heads;
  const size_t head_dim = static_cast<size_t>(info.head_dim);
  std::vector<float> keys(static_cast<size_t>(n) * head_dim), value(head_dim), unused(head_dim);
  for (int64_t i = 0; i < n; ++i) {
    session.impl().cache.Read(layer, kv_head, i, keys.data() + i * info.head_dim, unused.data());
  }
  session.impl().cache.Read(layer, kv_head, position, unused.data(), value.data());
  double best = 0;
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    double mean = 0;
    for (int64_t j = position + kReceivedDistance; j < n; ++j) {
      std::vector<double> scores;
      for (int64_t i = 0; i <= j; ++i) {
        double dot = 0;
        for (size_t d = 0; d < head_dim; ++d) {
          dot += static_cast<double>(watched.queries[(j * info.n_heads + head) * head_dim + d]) *
                 keys[i * head_dim + d];
        }
        scores.push_back(dot / std::sqrt(static_cast<double>(head_dim)));
      }
      const double most = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      for (const double s : scores) sum += std::exp(s - most);
      double norm = 0;
      for (int e = 0; e < info.n_embd; ++e) {
        const double x = watched.hidden[j * info.n_embd + e];
        norm += x * x;
      }
      mean += std::exp(scores[position] - most) / sum / std::sqrt(norm) /
              static_cast<double>(n - position - kReceivedDistance);
    }
    float output = 0;
    SmallModel().impl().output_norms->Norms(layer, head, {value.data(), 1, head_dim, head_dim},
                                            {&output, 1});
    best = std::max(best, mean * output);
  }
  return std::log(best);
}

std::vector<std::string> Documents() {
  std::vector<std::string> documents;
  for (int d = 0; d < 4; ++d) {
    std::string text;
    for (int i = 0; i < 40; ++i) text += "Day " + std::to_string(i * 7 + d) + " was calm. ";
    documents.push_back(text);
  }
  return documents;
}

TEST(ReceivedAttention, TheHarvestHoldsItsDefinition) {
  const TempFolder folder;
  const ModelInfo& info = SmallModel().info();
  KvzapOptions options;
  options.n_prompts = 3;
  options.min_tokens = 200;
  options.max_tokens = 220;
  options.n_positions = 100;
  options.n_threads = 2;
  options.work_folder = folder / "work";
  const auto prompts =
      MakeHarvestPrompts(SmallModel().tokenizer(), Documents(), options, HarvestPlan().sinks);
  const KvzapSplits splits = Harvest(SmallModel(), prompts, options, {});
  const HarvestPrompt& prompt = prompts.front();
  const KvzapShard& shard = splits.train.front();
  const auto n = static_cast<int64_t>(prompt.tokens.size());
  const auto n_seen = std::count_if(prompt.positions.begin(), prompt.positions.end(),
                                    [&](int32_t p) { return p + kReceivedDistance < n; });
  ASSERT_GT(n_seen, 10);
  ASSERT_LT(n_seen, 100);
  ASSERT_EQ(shard.n_seen(), n_seen);

  std::vector<Watched> watched(static_cast<size_t>(info.n_layers));
  Session session(SmallModel(), HarvestPlan(), {.n_threads = 1});
  session.impl().SetHiddenTap([&](int layer, int32_t, int rows, const float* hidden) {
    auto& all = watched[static_cast<size_t>(layer)].hidden;
    all.insert(all.end(), hidden, hidden + size_t{1} * rows * info.n_embd);
  });
  session.impl().SetQueryTap([&](int layer, int32_t first, int rows, const float* q) {
    if (first >= n) return;
    auto& all = watched[static_cast<size_t>(layer)].queries;
    all.insert(all.end(), q, q + size_t{1} * rows * info.n_heads * info.head_dim);
  });
  session.Read(prompt.tokens);
  std::vector<float> keys(static_cast<size_t>(n_seen) * info.head_dim), key(info.head_dim),
      value(info.head_dim), norm(1);
  for (int layer = 0; layer < info.n_layers; ++layer) {
    for (int h = 0; h < info.n_kv_heads; ++h) {
      const HeadEntries entries = session.impl().cache.Entries(layer, h);
      shard.Keys(layer, h, static_cast<int>(n_seen), keys.data());
      for (int64_t i = 0; i < n_seen; i += 5) {
        const int32_t position = prompt.positions[i];
        const double want = DoubleLog(watched[layer], info, session, layer, h, n, position);
        const double error = std::abs(shard.LogReceived(layer, h)[i] - want);
        EXPECT_FALSE(!(error <= 1e-4)) << layer << " " << h << " " << i << " " << want;

        session.impl().cache.Read(layer, h, position, key.data(), value.data());
        double square = 0;
        for (const float v : value) square += static_cast<double>(v) * v;
        EXPECT_NEAR(shard.LogValueNorms(layer, h)[i], std::log(square) / 2, 1e-5);
        for (int d = 0; d < info.head_dim; ++d) {
          const int at = info.rope_interleaved ? InterleavedIndex(d, info.head_dim) : d;
          EXPECT_EQ(keys[i * info.head_dim + d], key[at]);
        }
        const int group = info.n_heads / info.n_kv_heads;
        double log_norms = 0;
        for (int g = 0; g < group; ++g) {
          const auto size = static_cast<size_t>(info.head_dim);
          SmallModel().impl().output_norms->Norms(layer, h * group + g,
                                                  {value.data(), 1, size, size}, norm);
          log_norms += std::log(norm[0]) / group;
        }
        EXPECT_NEAR(shard.LogRepeat(layer, h)[i], entries.worth[position] - log_norms, 1e-4);
      }
    }
  }
}

}  // namespace
}  // namespace pith
