// What tests of sessions with codes share.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "engine/greedy.h"
#include "engine/session_impl.h"
#include "pith/session.h"
#include "tools/random_codebooks.h"
#include "tools/random_gguf.h"
#include "tools/temp_folder.h"

namespace pith::testing {

inline const TempFolder& Folder() {
  static const TempFolder folder;
  return folder;
}

// Small, so that what does not depend on the model is quick.
inline const Model& SmallModel() {
  static const Model model = [] {
    RandomGguf options;
    options.n_embd = 128;
    options.head_dim = 32;
    options.n_ctx = 2048;
    const auto file = Folder() / "model.gguf";
    WriteRandomGguf(options, file);
    return Model::Load(file);
  }();
  return model;
}

inline Plan CodesPlan(std::string_view keep, const std::string& keys, const std::string& values) {
  Plan plan;
  plan.keep = Keep::Parse(keep);
  plan.scorer = "knorm";
  plan.window = 16;
  plan.key_codec = keys;
  plan.value_codec = values;
  return plan;
}

inline std::vector<Token> Noise(size_t n) {
  std::vector<Token> tokens;
  for (size_t i = 0; i < n; ++i) tokens.push_back(static_cast<Token>((i * 79 + i / 7) % 250));
  return tokens;
}

// For SmallModel().
inline std::shared_ptr<Calibration> WithCodebooks(const std::vector<std::string>& codecs,
                                                  uint32_t seed) {
  const ModelInfo& info = SmallModel().info();
  auto calibration = std::make_shared<Calibration>();
  calibration->n_layers = info.n_layers;
  calibration->n_kv_heads = info.n_kv_heads;
  calibration->head_dim = info.head_dim;
  calibration->codebooks =
      RandomCodebooks(info.n_layers, info.n_kv_heads, info.head_dim, codecs, 0.5f, seed);
  return calibration;
}

// Saves a session as `file`, from which another goes on as it does.
inline void ExpectToGoOnFrom(const std::filesystem::path& file, Session& saved,
                             const std::shared_ptr<const Calibration>& calibration = nullptr) {
  const auto again = Folder() / "again.pith";
  saved.Save(file);
  Session loaded = Session::Load(SmallModel(), file, OneThread(), calibration);
  loaded.Save(again);
  EXPECT_EQ(ReadWhole(file), ReadWhole(again));
  EXPECT_EQ(Logits(loaded), Logits(saved));
  EXPECT_EQ(Continue(loaded, 150), Continue(saved, 150));
  EXPECT_EQ(Logits(loaded), Logits(saved));
}

// Puts all entries of `from`, decoded, as f16 in the place of those of `to`.
inline void TakeDecoded(Session& from, Session& to) {
  const Cache& cache = from.impl().cache;
  const CacheShape& shape = cache.shape();
  const auto dim = static_cast<size_t>(shape.head_dim);
  const TierCodecs f16 = to.impl().cache.codecs()[0];
  auto pages = std::make_shared<std::vector<std::vector<std::byte>>>();
  std::vector<Cache::AdoptedHead> heads;
  std::vector<float> key(dim), value(dim);
  for (int layer = 0; layer < shape.n_layers; ++layer) {
    for (int h = 0; h < shape.n_kv_heads; ++h) {
      const HeadEntries entries = cache.Entries(layer, h);
      const int64_t n = std::ssize(entries.positions);
      const size_t page_bytes = f16.page_bytes();
      std::vector<std::byte>& of_head = pages->emplace_back((n + 63) / 64 * page_bytes);
      for (int64_t i = 0; i < n; ++i) {
        cache.Read(layer, h, i, key.data(), value.data());
        std::byte* page = of_head.data() + i / 64 * page_bytes;
        const int slot = static_cast<int>(i % 64);
        f16.keys->Encode(0, {key.data(), 1, dim, dim}, slot, page);
        f16.values->Encode(0, {value.data(), 1, dim, dim}, slot, page + f16.keys->PageBytes());
      }
      Cache::AdoptedHead head = {entries.positions, entries.worth};
      head.tiers[0] = {n, of_head.data()};
      heads.push_back(head);
    }
  }
  to.impl().cache.Adopt(heads, pages);
}

// Root mean square difference.
inline double Apart(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

}  // namespace pith::testing
