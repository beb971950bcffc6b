#include "engine/harvest.h"

#include <fmt/format.h>
#include <ggml-cpu.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <system_error>
#include <vector>

#include "base/atomic_file.h"
#include "base/fail.h"
#include "calibrate/rope_layout.h"
#include "engine/plan_calibration.h"
#include "engine/received.h"
#include "engine/session_impl.h"

namespace pith {
namespace {

namespace fs = std::filesystem;

constexpr int kHarvestVersion = 1;

// Names a prompt by all that its samples depend on.
std::string KeyOf(const Model& model, const HarvestPrompt& prompt) {
  std::string all = fmt::format("{} {} ", kHarvestVersion, model.info().fingerprint);
  const auto add = [&](std::span<const std::byte> bytes) {
    all += fmt::format("{} ", bytes.size());
    all.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  add(std::as_bytes(std::span(prompt.tokens)));
  add(std::as_bytes(std::span(prompt.positions)));
  return HashText(XXH3_64bits(all.data(), all.size()));
}

fs::path ShardFile(const fs::path& folder, size_t index) {
  return folder / fmt::format("prompt-{:05}.safetensors", index);
}

std::string ManifestText(const Model& model, std::span<const HarvestPrompt> prompts,
                         std::span<const std::string> keys) {
  nlohmann::ordered_json manifest;
  manifest["version"] = kHarvestVersion;
  manifest["model"] = model.info().name;
  manifest["model_fingerprint"] = model.info().fingerprint;
  auto& list = manifest["prompts"] = nlohmann::ordered_json::array();
  for (size_t i = 0; i < prompts.size(); ++i) {
    list.push_back({{"key", keys[i]},
                    {"split", SplitName(prompts[i].split)},
                    {"document", prompts[i].document},
                    {"tokens", prompts[i].tokens.size()},
                    {"positions", prompts[i].positions.size()},
                    {"facts", prompts[i].n_facts}});
  }
  return manifest.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

// Writes the manifest, or makes sure that it is the one that is there.
void ClaimFolder(const fs::path& folder, const std::string& manifest) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!fs::is_directory(folder, error)) {
    Fail(ErrorCode::kIo, "{}: cannot be made or is no folder", folder.string());
  }
  const fs::path file = folder / "manifest.json";
  if (!fs::exists(file, error)) {
    WriteFileAtomically(file, std::as_bytes(std::span(manifest)));
    return;
  }
  std::ifstream in(file, std::ios::binary);
  const std::string found{std::istreambuf_iterator<char>(in), {}};
  if (found != manifest) {
    Fail(ErrorCode::kMismatch,
         "{}: holds the samples of another model, corpus or settings; give an empty folder",
         folder.string());
  }
}

class PromptHarvest {
 public:
  PromptHarvest(const Model& model, const HarvestPrompt& prompt, int n_threads)
      : info_(model.info()),
        prompt_(prompt),
        session_(model, HarvestPlan(), {.n_threads = n_threads}),
        output_norms_(*model.impl().output_norms),
        received_(info_, static_cast<int>(prompt.tokens.size())),
        hidden_(size_t{1} * info_.n_layers * prompt.positions.size() * info_.n_embd) {
    session_.impl().SetHiddenTap([this](int layer, int32_t first, int n, const float* rows) {
      Take(layer, first, n, rows);
      received_.TakeHidden(layer, first, n, rows);
    });
    session_.impl().SetQueryTap([this](int layer, int32_t first, int n, const float* q) {
      received_.TakeQueries(layer, first, n, q);
    });
  }

  void Run(const KvzapShape& shape, const fs::path& file, const std::string& key,
           const Progress& progress) {
    ReadOptions read;
    read.progress = progress;
    session_.Read(prompt_.tokens, read);
    std::vector<float> scores;
    for (int layer = 0; layer < info_.n_layers; ++layer) {
      for (int h = 0; h < info_.n_kv_heads; ++h) {
        const std::span<const float> worth = session_.impl().cache.Entries(layer, h).worth;
        for (const int32_t position : prompt_.positions) scores.push_back(worth[position]);
      }
    }
    for (const float score : scores) {
      if (!std::isfinite(score)) {
        Fail(ErrorCode::kFormat, "an entry was judged {}, expected a finite number", score);
      }
    }
    KvzapShard::Write(file, shape, static_cast<int>(prompt_.positions.size()), hidden_, scores, key,
                      Entries(scores));
  }

 private:
  // Entries lie in order of position, since nothing is evicted.
  void Take(int layer, int32_t first, int n, const float* rows) {
    const auto begin = std::lower_bound(prompt_.positions.begin(), prompt_.positions.end(), first);
    for (auto it = begin; it != prompt_.positions.end() && *it < first + n; ++it) {
      const size_t row = static_cast<size_t>(it - prompt_.positions.begin());
      ggml_cpu_fp32_to_fp16(
          rows + int64_t{*it - first} * info_.n_embd,
          hidden_.data() + (layer * prompt_.positions.size() + row) * info_.n_embd, info_.n_embd);
    }
  }

  // Nothing where the prompt is too short for any to be seen from later.
  KvzapEntries Entries(std::span<const float> log_scores) {
    const std::span<const int32_t> positions = prompt_.positions;
    const size_t n = positions.size();
    const auto n_seen = static_cast<size_t>(received_.CountSeen(positions));
    KvzapEntries entries;
    if (n_seen == 0) return entries;
    const size_t n_heads = size_t{1} * info_.n_layers * info_.n_kv_heads;
    const auto head_dim = static_cast<size_t>(info_.head_dim);
    const int group = info_.n_heads / info_.n_kv_heads;
    entries.keys.resize(n_heads * n * head_dim);
    entries.log_value_norm.resize(n_heads * n);
    entries.log_repeat.assign(log_scores.begin(), log_scores.end());
    entries.log_received.resize(n_heads * n_seen);
    std::vector<float> key(head_dim);
    std::vector<float> values(n * head_dim);
    std::vector<float> norms(n);
    for (size_t head = 0; head < n_heads; ++head) {
      const int layer = static_cast<int>(head) / info_.n_kv_heads;
      const int kv_head = static_cast<int>(head) % info_.n_kv_heads;
      for (size_t i = 0; i < n; ++i) {
        float* value = values.data() + i * head_dim;
        session_.impl().cache.Read(layer, kv_head, positions[i], key.data(), value);
        const std::vector<float> stored = InHalfSplit(key);
        ggml_cpu_fp32_to_fp16(stored.data(), entries.keys.data() + (head * n + i) * head_dim,
                              info_.head_dim);
        entries.log_value_norm[head * n + i] =
            0.5f * std::log(std::max(std::inner_product(value, value + head_dim, value, 0.0f),
                                     std::numeric_limits<float>::min()));
      }
      // The score without what the value writes: ln |W_O v| hardly differs within a group.
      for (int g = 0; g < group; ++g) {
        output_norms_.Norms(layer, kv_head * group + g, {values.data(), n, head_dim, head_dim},
                            norms);
        for (size_t i = 0; i < n; ++i) {
          entries.log_repeat[head * n + i] -=
              std::log(std::max(norms[i], std::numeric_limits<float>::min())) /
              static_cast<float>(group);
        }
      }
      received_.Log(layer, kv_head, session_.impl().cache, output_norms_, positions,
                    std::span(entries.log_received).subspan(head * n_seen, n_seen));
    }
    return entries;
  }

  std::vector<float> InHalfSplit(const std::vector<float>& key) const {
    if (!info_.rope_interleaved) return key;
    std::vector<float> split(key.size());
    for (int i = 0; i < info_.head_dim; ++i) split[i] = key[InterleavedIndex(i, info_.head_dim)];
    return split;
  }

  const ModelInfo& info_;
  const HarvestPrompt& prompt_;
  Session session_;
  const OutputNorms& output_norms_;
  ReceivedAttention received_;
  std::vector<uint16_t> hidden_;  // [n_layers, n_positions, n_embd]
};

}  // namespace

Plan HarvestPlan() {
  Plan plan;
  plan.scorer = "kvzip+";
  plan.keep.kind = Keep::Kind::kFraction;
  plan.keep.fraction = 1.0;
  return plan;
}

KvzapSplits Harvest(const Model& model, std::span<const HarvestPrompt> prompts,
                    const KvzapOptions& options, const Progress& progress) {
  const ModelInfo& info = model.info();
  const KvzapShape shape{info.n_layers, info.n_embd, info.n_kv_heads, info.head_dim};
  std::vector<std::string> keys;
  for (const HarvestPrompt& prompt : prompts) keys.push_back(KeyOf(model, prompt));
  ClaimFolder(options.work_folder, ManifestText(model, prompts, keys));
  std::vector<bool> is_there(prompts.size());
  int64_t n_tokens = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    std::error_code error;
    is_there[i] = fs::exists(ShardFile(options.work_folder, i), error);
    if (!is_there[i]) n_tokens += static_cast<int64_t>(prompts[i].tokens.size());
  }
  int64_t done = 0;
  KvzapSplits splits;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const fs::path file = ShardFile(options.work_folder, i);
    if (!is_there[i]) {
      const auto tokens = static_cast<int64_t>(prompts[i].tokens.size());
      PromptHarvest(model, prompts[i], options.n_threads)
          .Run(shape, file, keys[i], [&](int64_t part, int64_t whole) {
            return !progress || progress(done + tokens * part / whole, n_tokens);
          });
      done += tokens;
    }
    std::vector<KvzapShard>& target = prompts[i].split == Split::kTrain        ? splits.train
                                      : prompts[i].split == Split::kValidation ? splits.validation
                                                                               : splits.held_out;
    target.push_back(KvzapShard::Open(file, shape, keys[i]));
  }
  return splits;
}

}  // namespace pith
