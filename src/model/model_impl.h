// What stands behind pith::Model.
#pragma once

#include <memory>

#include "model/hparams.h"
#include "model/output_norm.h"
#include "model/rope.h"
#include "model/weights.h"
#include "pith/model.h"

namespace pith {

struct Model::Impl {
  HyperParams hparams;
  ModelInfo info;
  std::unique_ptr<Weights> weights;
  std::unique_ptr<OutputNorms> output_norms;  // of the file that weights holds
  std::unique_ptr<Rope> rope;
  std::unique_ptr<Tokenizer> tokenizer;
};

}  // namespace pith
