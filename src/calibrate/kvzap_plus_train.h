// Training the surrogate of kvzap+ from harvested shards.
#pragma once

#include <span>
#include <vector>

#include "calibrate/kvzap_train.h"

namespace pith {

struct KvzapPlusFit {
  KvzapPlusSurrogate surrogate;  // weights are f16 numbers; with quantiles, as of KvzapFit
  // Explained part of the variance on held-out prompts. [2, n_layers, n_kv_heads]: of the logarithm
  // of what the repeat found, and of what later queries looked for.
  std::vector<float> r2;
  double penalty = 0;  // chosen on validation prompts
};

// Ridge regression for every layer and KV head on the hidden state, the projection of the key on
// the head's Q-Filter, ln |key| and ln |value|, of two targets. The second prediction is raised by
// one constant, so that both targets have the same mean over the samples trained on. filters
// [n_layers, n_kv_heads, head_dim], half-split. The penalty is relative to each input's own
// variance, one for all. `progress` and errors are as of FitKvzapLinear; Error(kMismatch) for
// shards without keys.
KvzapPlusFit FitKvzapPlus(const KvzapShape& shape, const KvzapSplits& splits,
                          std::span<const float> filters, const KvzapTraining& training,
                          const Progress& progress = {});

}  // namespace pith
