#include "engine/harvest.h"

#include <fmt/format.h>
#include <ggml-cpu.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "base/atomic_file.h"
#include "base/fail.h"
#include "engine/session_impl.h"
#include "engine/snapshot_manifest.h"

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
        hidden_(size_t{1} * info_.n_layers * prompt.positions.size() * info_.n_embd) {
    session_.impl().SetHiddenTap([this](int layer, int32_t first, int n, const float* rows) {
      Take(layer, first, n, rows);
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
    KvzapShard::Write(file, shape, static_cast<int>(prompt_.positions.size()), hidden_, scores,
                      key);
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

  const ModelInfo& info_;
  const HarvestPrompt& prompt_;
  Session session_;
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
  const KvzapShape shape{info.n_layers, info.n_embd, info.n_kv_heads};
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
