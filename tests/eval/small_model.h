// A small random model, for what does not depend on what a model knows.
#pragma once

#include <string>
#include <vector>

#include "eval/text_pieces.h"
#include "pith/model.h"
#include "tools/random_gguf.h"
#include "tools/temp_folder.h"

namespace pith::testing {

inline const Model& SmallModel() {
  static const TempFolder folder;
  static const Model model = [] {
    RandomGguf gguf;
    gguf.n_layers = 2;
    gguf.n_ctx = 4096;
    WriteRandomGguf(gguf, folder / "small.gguf");
    return Model::Load(folder / "small.gguf");
  }();
  return model;
}

// `n` tokens of its vocabulary, without a pattern.
inline TextPiece SomePiece(size_t n) {
  TextPiece piece;
  for (size_t i = 0; i < n; ++i) {
    piece.tokens.push_back(static_cast<Token>((i * i * 7 + i * 3 + i / 5) %
                                              static_cast<size_t>(SmallModel().info().n_vocab)));
  }
  return piece;
}

}  // namespace pith::testing
