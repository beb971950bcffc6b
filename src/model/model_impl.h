// What stands behind pith::Model.
#pragma once

#include <memory>
#include <mutex>

#include "model/hparams.h"
#include "model/key_frames.h"
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

  // Made from the file when asked for first; safe to call from many threads.
  const KeyFrames& key_frames() const {
    std::call_once(frames_once_, [&] { frames_ = MakeKeyFrames(*weights, hparams, *rope); });
    return frames_;
  }

 private:
  mutable std::once_flag frames_once_;
  mutable KeyFrames frames_;
};

}  // namespace pith
