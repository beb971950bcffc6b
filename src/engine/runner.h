// Runs the model's graph over the caches of one or several sessions.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <ggml-cpp.h>

#include "attention/attention.h"
#include "base/matrix_view.h"
#include "model/graph.h"
#include "pith/session.h"

namespace pith {

// 0 means one per core. Throws Error(kInvalidArgument) for a number that makes no sense.
int ThreadCount(int asked);

// What one session appends in one layer.
struct ChunkRows {
  MatrixView<const float> keys;    // [n_tokens, n_kv_heads * head_dim], after RoPE
  MatrixView<const float> values;  // the same
  MatrixView<const float> hidden;  // [n_tokens, n_embd] without gaps: what enters attention, normed
};

// Keeps what it takes to run graphs: threads, scratch and the graphs themselves.
class Runner {
 public:
  Runner(const Model& model, int n_threads);
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;

  struct Sequence {
    Session::Impl* session = nullptr;
    int64_t first_position = 0;
  };
  // Reads as many tokens in each of several different sessions: tokens [n_sequences, n_tokens],
  // valid ones. Either all caches have their entries then, or Error(kMemoryLimit), or kCancelled by
  // Cancel() of any, is thrown and all are as they were. The result is valid until the next call.
  const Graph& Run(std::span<const Sequence> sequences, std::span<const Token> tokens,
                   Output output);

  ggml_backend_t backend() const { return backend_.get(); }

 private:
  // What a custom op of one layer is given.
  struct LayerState {
    Runner* runner = nullptr;
    int layer = 0;
  };
  static void AppendOp(ggml_tensor* dst, int thread, int n_threads, void* user);
  static void AttendOp(ggml_tensor* dst, int thread, int n_threads, void* user);
  void Append(int layer, const ChunkRows& all, int thread, int n_threads);
  void Attend(int layer, const float* q, const float* hidden, float* out, int thread,
              int n_threads);
  Graph& GraphFor(int n_tokens, Output output);
  bool IsCancelled() const;

  Model model_;
  ggml_backend_ptr backend_;
  AttentionPlan attention_;
  std::vector<LayerState> layer_states_;
  std::vector<LayerOps> layer_ops_;
  std::vector<std::unique_ptr<Graph>> graphs_;  // the most recently used last

  // Of the run in progress.
  std::span<const Sequence> sequences_;
  int n_tokens_ = 0;                // of each
  std::vector<HeadView> views_;     // [n_layers, n_sequences, n_kv_heads]
  std::vector<int32_t> positions_;  // [n_sequences, n_tokens]
};

}  // namespace pith
