// The transformer as a ggml graph for a fixed number of tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <ggml-cpp.h>

#include "model/hparams.h"
#include "model/weights.h"
#include "pith/text.h"

namespace pith {

// Two ops per layer that the graph leaves to its user; ggml calls them from all its threads.
//   append: dst->src[0] = k, src[1] = v  // [head_dim, n_kv_heads, n_tokens] f32, k after RoPE
//           src[2] = hidden              // [n_embd, n_tokens] f32, what enters attention, normed
//   attend: dst->src[0] = q              // [head_dim, n_heads, n_tokens] f32, after RoPE
//           src[2] = hidden
//           dst                          // [n_heads * head_dim, n_tokens] f32
// Contiguous, but for the tokens of v, which lie nb[2] apart. Within a layer attend starts after
// append has ended on every thread.
struct LayerOps {
  ggml_custom_op_t append = nullptr;
  ggml_custom_op_t attend = nullptr;
  void* user = nullptr;
};

// What is computed after the last layer. Work that nobody reads is left out of the graph.
enum class Output {
  kNone,        // nothing: the last layer ends at its append
  kQueries,     // nothing, but the last layer ends at its attend
  kLastLogits,  // logits after the last token
  kLogits,      // logits after every token
  kHidden,      // normed hidden states of all tokens, for LogitsHead
};

class Graph {
 public:
  // `ops` [n_layers] and `weights` must outlive the graph. Throws Error(kIo) without memory.
  Graph(const Weights& weights, const HyperParams& hparams, std::span<const LayerOps> ops,
        int n_tokens, Output output);

  // Runs on `backend`. `tokens` [n_tokens] in [0, n_vocab), each at its own position.
  // Returns false if the backend's abort callback stopped it.
  bool Compute(ggml_backend_t backend, std::span<const Token> tokens,
               std::span<const int32_t> positions);

  // After Compute: [n_vocab] for kLastLogits, [n_tokens, n_vocab] for kLogits, [n_tokens, n_embd]
  // for kHidden.
  std::span<const float> result() const;

  int n_tokens() const { return n_tokens_; }
  Output output() const { return output_; }

 private:
  int n_tokens_;
  Output output_;
  ggml_context_ptr context_;
  ggml_gallocr_ptr allocator_;
  ggml_cgraph* graph_ = nullptr;
  ggml_tensor* tokens_ = nullptr;     // [n_tokens] i32
  ggml_tensor* positions_ = nullptr;  // [n_tokens] i32
  ggml_tensor* last_ = nullptr;       // [1] i32, the row whose logits are wanted
  ggml_tensor* result_ = nullptr;
};

// Logits of many hidden states, a few rows at a time so that they take little memory.
class LogitsHead {
 public:
  LogitsHead(const Weights& weights, const HyperParams& hparams);

  // `hidden` [n, n_embd] normed; calls `each` with the row index and its logits [n_vocab], in
  // order.
  void Compute(ggml_backend_t backend, std::span<const float> hidden,
               const std::function<void(int row, std::span<const float> logits)>& each);

 private:
  static constexpr int kRows = 32;
  int n_embd_;
  int n_vocab_;
  ggml_context_ptr context_;
  ggml_gallocr_ptr allocator_;
  ggml_cgraph* graph_ = nullptr;
  ggml_tensor* hidden_ = nullptr;  // [n_embd, kRows]
  ggml_tensor* logits_ = nullptr;  // [n_vocab, kRows]
};

}  // namespace pith
