// What a GGUF file says about the shape of its model.
#pragma once

#include <string>

#include "base/gguf_file.h"

namespace pith {

// RoPE frequencies scaled beyond the context that the base model was trained for.
struct RopeScaling {
  float freq_scale = 1.0f;   // positions are multiplied by this
  float ext_factor = 0.0f;   // 1: YaRN (arXiv 2309.00071), 0: linear or none
  float attn_factor = 1.0f;  // multiplies the rotated vectors, beside YaRN's own factor
  float beta_fast = 32.0f;
  float beta_slow = 1.0f;
  int n_ctx_original = 0;
};

struct HyperParams {
  std::string name;
  std::string architecture;
  int n_layers = 0;
  int n_embd = 0;
  int n_heads = 0;
  int n_kv_heads = 0;
  int head_dim = 0;
  int n_ff = 0;
  int n_vocab = 0;
  int n_ctx_train = 0;
  int n_rot = 0;  // dimensions of a head that RoPE turns, the first ones
  float norm_eps = 0;
  float rope_freq_base = 10000.0f;
  RopeScaling rope_scaling;
  bool rope_interleaved = false;  // pairs (2i, 2i+1) rather than (i, i + n_rot/2)
  bool qkv_bias = false;          // q, k and v projections must have a bias
  bool qk_norm = false;           // RMS norm of each head of q and k before RoPE

  int group() const { return n_heads / n_kv_heads; }
};

// Throws Error(kUnsupported) for an unknown architecture or feature, Error(kFormat) for numbers
// that cannot be.
HyperParams ReadHyperParams(const GgufFile& file);

}  // namespace pith
