// What tests of sessions with codes share.
#pragma once

#include <string>
#include <vector>

#include "pith/session.h"
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

}  // namespace pith::testing
