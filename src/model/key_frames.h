// What the weights say of keys, for codes to spend no bits on it.
#pragma once

#include <vector>

namespace pith {

struct HyperParams;
class Rope;
class Weights;

// Of each (layer, KV head), for keys whose projection has a bias, which may be many times what
// differs from key to key (Qwen2). A key is centre + spread * x, element by element, and x is what
// is coded: all keys' products with a query have that with the centre in common, and the errors of
// codes are spread over dimensions so that they weigh least. Both [n_layers * n_kv_heads, head_dim]
// as the graph has keys after RoPE, spreads above zero; empty where no layer has such a bias or
// where keys are normalised after it.
struct KeyFrames {
  std::vector<float> centres;
  std::vector<float> spreads;
};

// Of another way to make them from the same weights, another number: codes depend on it.
inline constexpr int kKeyFramesVersion = 1;

// centre: the mean of the bias after RoPE over the first 4,096 positions, which is all of it in
// pairs that hardly turn, and nearly nothing in those that turn fast.
// spread: s = (K / Q)^(1/4), with K and Q the mean squares of an element of what is left of the
// keys, and of the queries. Dividing keys and multiplying queries by s makes a score's error, when
// that of the codes is the same in all dimensions, go with the sum of K / s^2 times the sum of
// Q s^2, which is least for this s (Cauchy and Schwarz). Both means are those of a pair, with
// hidden states whose normalised elements have no correlation.
// Throws what ForEachWeightRows throws.
KeyFrames MakeKeyFrames(const Weights& weights, const HyperParams& hparams, const Rope& rope);

}  // namespace pith
