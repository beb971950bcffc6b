// KVzap surrogates with random weights, to measure what judging costs in models that have no
// trained one.
#pragma once

#include <cstdint>
#include <filesystem>

#include "pith/calibration.h"

namespace pith::testing {

struct RandomKvzap {
  bool mlp = false;  // a hidden layer of n_embd / 8
  uint64_t seed = 1;
};

// A calibration of the GGUF file's model whose scores are near standard normal, and which says so
// in its quantiles. Its weights have the variance that the norm before the layer's attention calls
// for. Throws Error for a file that is no model, std::runtime_error for a model without such norms.
Calibration MakeRandomKvzap(const std::filesystem::path& model, const RandomKvzap& options);

}  // namespace pith::testing
