// The tensors of a model, where they lie in memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <ggml-cpp.h>

#include "base/gguf_file.h"
#include "model/hparams.h"

namespace pith {

// y = W x + b. Shapes in ggml's order, the fastest dimension first. W is rows first_out..first_out
// + n_out - 1 of `weight`: matrices that multiply the same x are laid out as one.
struct Linear {
  ggml_tensor* weight = nullptr;  // [n_in, n_out or more]
  ggml_tensor* rest = nullptr;    // [RestElements] f16, or null: of a split q4_1 matrix
  ggml_tensor* bias = nullptr;    // [n_out] f32, or null
  int64_t first_out = 0;
  int64_t n_out = 0;
};

struct LayerWeights {
  ggml_tensor* attn_norm = nullptr;  // [n_embd] f32
  Linear q, k, v;                    // [n_embd, n_heads or n_kv_heads * head_dim]
  ggml_tensor* q_norm = nullptr;     // [head_dim] f32, or null
  ggml_tensor* k_norm = nullptr;     // [head_dim] f32, or null
  Linear attn_output;                // [n_heads * head_dim, n_embd]
  ggml_tensor* ffn_norm = nullptr;   // [n_embd] f32
  Linear gate, up;                   // [n_embd, n_ff]
  Linear down;                       // [n_ff, n_embd]
};

// Memory-mapped from the file, except for matrices that the CPU multiplies faster in another
// layout.
class Weights {
 public:
  // Throws Error(kFormat) for missing or misshapen tensors, Error(kUnsupported) for types that ggml
  // cannot multiply and for tensors that the architecture does not have.
  Weights(GgufFile file, const HyperParams& hparams, bool repack);
  ~Weights();

  ggml_tensor* token_embd = nullptr;    // [n_embd, n_vocab]
  ggml_tensor* output_norm = nullptr;   // [n_embd] f32
  Linear output;                        // [n_embd, n_vocab]; the embeddings again where tied
  ggml_tensor* rope_factors = nullptr;  // [n_rot / 2] f32 frequency divisors (Llama 3), or null
  std::vector<LayerWeights> layers;

  const GgufFile& file() const { return file_; }
  uint64_t bytes() const { return bytes_; }             // of all tensors, as the file stores them
  std::string main_type() const { return main_type_; }  // the type that holds most bytes

 private:
  class Loader;
  GgufFile file_;
  ggml_context_ptr tensors_;
  std::vector<ggml_backend_buffer_ptr> buffers_;
  uint64_t bytes_ = 0;
  std::string main_type_;
};

}  // namespace pith
