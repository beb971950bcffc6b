// What stands behind pith::Session.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include <ggml-cpp.h>

#include "attention/attention.h"
#include "budgets/budget.h"
#include "cache/cache.h"
#include "model/graph.h"
#include "model/model_impl.h"
#include "pith/session.h"
#include "scorers/scorer.h"

namespace pith {

class Session::Impl {
 public:
  Impl(const Model& model, const Plan& plan, const SessionOptions& options);

  void Read(std::span<const Token> tokens, const ReadOptions& options);
  void Next(Token token);

  // Sees the queries of every chunk as attention does: q [n_tokens, n_heads, head_dim] f32 after
  // RoPE. Called by one thread, layer after layer.
  using QueryTap =
      std::function<void(int layer, int32_t first_position, int n_tokens, const float* q)>;
  void SetQueryTap(QueryTap tap) { query_tap_ = std::move(tap); }

  Model model;
  Plan plan;
  int n_ctx;
  int n_batch;
  int n_threads;
  Cache cache;
  int64_t n_read = 0;
  std::vector<Token> tokens;  // [n_read]
  std::vector<float> logits;
  TimeStats times;
  std::atomic<bool> cancelled = false;

 private:
  // What a custom op of one layer is given.
  struct LayerState {
    Impl* session = nullptr;
    int layer = 0;
  };
  static void AppendOp(ggml_tensor* dst, int thread, int n_threads, void* user);
  static void AttendOp(ggml_tensor* dst, int thread, int n_threads, void* user);
  void Append(int layer, const ggml_tensor& k, const ggml_tensor& v, int thread, int n_threads);
  void Attend(int layer, const ggml_tensor& q, float* out, int thread, int n_threads);

  void CheckTokens(std::span<const Token> tokens) const;
  // Runs one chunk and commits it, or leaves everything as it was and throws.
  Graph& RunChunk(std::span<const Token> tokens, Output output);
  Graph& GraphFor(int n_tokens, Output output);
  // Entries that a compressed head may keep once `n_total` tokens are read.
  int64_t KeptPerHead(int64_t n_total) const;
  // Evicts down to what the plan allows after `n_total` tokens, once heads are `slack` above it on
  // average.
  void Settle(int64_t n_total, int64_t slack);
  bool Compressed(int layer) const { return scorer_ && layer >= plan.skip_layers; }

  ggml_backend_ptr backend_;
  AttentionPlan attention_;
  std::unique_ptr<Scorer> scorer_;  // null: everything is kept
  std::unique_ptr<Budget> budget_;
  std::vector<LayerState> layer_states_;
  std::vector<LayerOps> layer_ops_;
  std::vector<std::unique_ptr<Graph>> graphs_;  // the most recently used last
  std::unique_ptr<LogitsHead> head_;
  std::vector<HeadEntries> candidates_;  // of Settle, kept to reuse their memory
  Verdicts verdicts_;
  QueryTap query_tap_;
};

}  // namespace pith
