// Training the surrogates of KVzap (arXiv 2601.07891, section 3) from harvested shards.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "calibrate/kvzap_shards.h"
#include "pith/calibration.h"

namespace pith {

// Shards of different documents. All of one shape, none of the three empty.
struct KvzapSplits {
  std::vector<KvzapShard> train;
  std::vector<KvzapShard> validation;
  std::vector<KvzapShard> held_out;
};

struct KvzapFit {
  KvzapSurrogate surrogate;  // weights are f16 numbers; with quantiles of validation and held-out
  // Explained part of the variance on held-out prompts, 1 - SSE / SST. [n_layers, n_kv_heads]
  std::vector<float> r2;
  double penalty = 0;  // linear: chosen on validation prompts
};

struct KvzapTraining {
  int epochs = 15;     // mlp
  uint64_t seed = 42;  // mlp: initial weights and the order of samples
  int n_threads = 1;   // layers are trained at the same time
  int n_hidden = 0;    // mlp: 0 for n_embd / 8
};

// Ridge regression per layer from normal equations, which are gathered shard by shard. One penalty,
// relative to the mean variance of a layer's hidden states, for all layers: the best of a few
// on the validation shards. `progress` counts layers; calls come from several threads, one at a
// time. Throws Error(kCancelled), or Error(kFormat) for values that are not finite.
KvzapFit FitKvzapLinear(const KvzapShape& shape, const KvzapSplits& splits,
                        const KvzapTraining& training, const Progress& progress = {});

// A hidden layer with exact gelu: AdamW, learning rate 5e-3 on a cosine, batches of 512, gradients
// clipped to norm 1, mean squared error, as published; the weights after the epoch that was best on
// the validation shards. Inputs and targets are standardised while training, which is folded into
// the weights afterwards. Deterministic for a seed.
KvzapFit FitKvzapMlp(const KvzapShape& shape, const KvzapSplits& splits,
                     const KvzapTraining& training, const Progress& progress = {});

}  // namespace pith
