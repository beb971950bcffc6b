// Models with random weights, for architectures, shapes and weight types that no small file has.
#pragma once

#include <ggml.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace pith::testing {

struct RandomGguf {
  std::string architecture = "llama";  // "llama", "qwen2" or "qwen3"
  int n_layers = 2;
  int n_embd = 64;
  int n_heads = 4;
  int n_kv_heads = 2;
  int head_dim = 0;  // 0: n_embd / n_heads
  int n_ff = 128;
  int n_vocab = 0;  // 0: as many as the tokenizer has
  int n_ctx = 512;
  float rope_freq_base = 10000.0f;
  std::string rope_scaling;          // "" (none), "linear" or "yarn"
  float rope_scaling_factor = 1.0f;  // context multiplied by this
  int n_ctx_original = 0;            // 0: n_ctx / rope_scaling_factor
  bool rope_factors = false;         // rope_freqs.weight as Llama 3.1 has it
  bool tied = false;                 // no output.weight, the embeddings serve
  float key_bias = 0.3f;             // deviation of the key projections' bias, where there is one
  ggml_type type = GGML_TYPE_F32;    // of every matrix; vectors are f32
  uint64_t seed = 1;
  // Rows generated and quantised before they repeat, 0: none repeat. Large files for measurements
  // of speed are written sooner with a few.
  int repeat_rows = 0;
  // Where the tokenizer comes from. Empty: 256 bytes and three special tokens, no merges.
  std::filesystem::path tokenizer_from;
};

// Weight types that `type` may be.
const std::vector<ggml_type>& RandomGgufTypes();

// Writes tensor by tensor; the same options give the same file. Weights of a matrix are normal with
// variance 1 / n_in, norms near 1. Throws std::runtime_error for a shape that cannot be written.
void WriteRandomGguf(const RandomGguf& model, const std::filesystem::path& file);

}  // namespace pith::testing
