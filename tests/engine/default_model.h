// The model that the engine's tests run on, loaded once per program.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "pith/model.h"

namespace pith {

inline const Model& DefaultModel() {
  static const Model model = Model::Load(PITH_TEST_MODEL);
  return model;
}

inline std::string ReadText(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + file.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

// The first `n` tokens of an essay.
inline std::vector<Token> EssayTokens(const std::string& essay, size_t n) {
  auto tokens = DefaultModel().tokenizer().Encode(
      ReadText(std::string(PITH_TEST_TEXTS) + "/essays/" + essay + ".txt"));
  if (tokens.size() < n) throw std::runtime_error(essay + " is too short");
  tokens.resize(n);
  return tokens;
}

}  // namespace pith
