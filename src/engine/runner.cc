#include "engine/runner.h"

#include <algorithm>
#include <cmath>
#include <thread>

#include <ggml-cpu.h>

#include "base/fail.h"
#include "engine/clock.h"
#include "engine/session_impl.h"

namespace pith {
namespace {

// Graphs kept for reuse: one token, a full chunk, and the odd remainder of a prompt.
constexpr size_t kMaxGraphs = 3;

const float* Floats(const ggml_tensor* tensor) { return static_cast<const float*>(tensor->data); }

// One row per token, which dimension `tokens_dim` counts.
MatrixView<const float> Rows(const ggml_tensor& tensor, int tokens_dim) {
  const auto n_tokens = static_cast<size_t>(tensor.ne[tokens_dim]);
  return {Floats(&tensor), n_tokens, static_cast<size_t>(ggml_nelements(&tensor)) / n_tokens,
          tensor.nb[tokens_dim] / sizeof(float)};
}

}  // namespace

int ThreadCount(int asked) {
  if (asked < 0 || asked > 512) {
    Fail(ErrorCode::kInvalidArgument,
         "{} threads make no sense, use 1 to 512, or 0 for one per core", asked);
  }
  return asked > 0 ? asked : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

Runner::Runner(const Model& model, int n_threads)
    : model_(model),
      backend_(ggml_backend_cpu_init()),
      attention_({model.info().head_dim, model.info().n_heads, model.info().n_kv_heads,
                  1.0f / std::sqrt(static_cast<float>(model.info().head_dim))},
                 n_threads) {
  if (!backend_) Fail(ErrorCode::kIo, "ggml has no CPU backend");
  ggml_backend_cpu_set_n_threads(backend_.get(), n_threads);
  ggml_backend_cpu_set_abort_callback(
      backend_.get(), [](void* runner) { return static_cast<Runner*>(runner)->IsCancelled(); },
      this);
  layer_states_.resize(static_cast<size_t>(model.info().n_layers));
  for (int i = 0; i < model.info().n_layers; ++i) {
    layer_states_[i] = {this, i};
    layer_ops_.push_back({AppendOp, AttendOp, &layer_states_[i]});
  }
}

bool Runner::IsCancelled() const {
  return std::any_of(sequences_.begin(), sequences_.end(), [](const Sequence& sequence) {
    return sequence.session->cancelled.load(std::memory_order_relaxed);
  });
}

void Runner::AppendOp(ggml_tensor* dst, int thread, int n_threads, void* user) {
  const auto* state = static_cast<LayerState*>(user);
  const ChunkRows all = {Rows(*dst->src[0], 2), Rows(*dst->src[1], 2), Rows(*dst->src[2], 1)};
  state->runner->Append(state->layer, all, thread, n_threads);
}

void Runner::AttendOp(ggml_tensor* dst, int thread, int n_threads, void* user) {
  const auto* state = static_cast<LayerState*>(user);
  state->runner->Attend(state->layer, Floats(dst->src[0]), Floats(dst->src[2]),
                        static_cast<float*>(dst->data), thread, n_threads);
}

// The work of every session falls into one share per thread; a thread takes as many shares as there
// are sessions, one after another, so that it works on few of them.
void Runner::Append(int layer, const ChunkRows& all, int thread, int n_threads) {
  const auto part = [&](const MatrixView<const float>& rows, size_t sequence) {
    const auto n = static_cast<size_t>(n_tokens_);
    return MatrixView<const float>{rows.row(sequence * n), n, rows.cols, rows.stride};
  };
  const int n_sequences = static_cast<int>(sequences_.size());
  for (int share = thread * n_sequences; share < (thread + 1) * n_sequences; ++share) {
    const size_t sequence = static_cast<size_t>(share / n_threads);
    sequences_[sequence].session->Append(
        layer, {part(all.keys, sequence), part(all.values, sequence), part(all.hidden, sequence)},
        share % n_threads, n_threads);
  }
}

void Runner::Attend(int layer, const float* q, const float* hidden, float* out, int thread,
                    int n_threads) {
  const double begin = thread == 0 ? Now() : 0;
  const ModelInfo& info = model_.info();
  for (size_t i = 0; i < sequences_.size(); ++i) {
    const size_t first = i * n_tokens_;
    sequences_[i].session->Observe(layer, q + first * info.n_heads * info.head_dim,
                                   hidden + first * info.n_embd, n_tokens_, thread, n_threads);
  }
  const size_t n_heads = sequences_.size() * info.n_kv_heads;
  attention_.Run(q, std::span(views_).subspan(layer * n_heads, n_heads), out, thread, n_threads);
  if (thread != 0) return;
  const double share = (Now() - begin) / static_cast<double>(sequences_.size());
  for (const Sequence& sequence : sequences_) sequence.session->times.attention_s += share;
}

Graph& Runner::GraphFor(int n_tokens, Output output) {
  const auto fits = [&](const auto& graph) {
    return graph->n_tokens() == n_tokens && graph->output() == output;
  };
  auto found = std::find_if(graphs_.begin(), graphs_.end(), fits);
  if (found == graphs_.end()) {
    if (graphs_.size() == kMaxGraphs) graphs_.erase(graphs_.begin());
    graphs_.push_back(std::make_unique<Graph>(*model_.impl().weights, model_.impl().hparams,
                                              layer_ops_, n_tokens, output));
  } else {
    std::rotate(found, found + 1, graphs_.end());
  }
  return *graphs_.back();
}

const Graph& Runner::Run(std::span<const Sequence> sequences, std::span<const Token> tokens,
                         Output output) {
  n_tokens_ = static_cast<int>(tokens.size() / sequences.size());
  Graph& graph = GraphFor(static_cast<int>(tokens.size()), output);
  attention_.Prepare(n_tokens_, static_cast<int>(sequences.size()));
  positions_.clear();
  views_.clear();
  for (const Sequence& sequence : sequences) {
    for (int t = 0; t < n_tokens_; ++t) {
      positions_.push_back(static_cast<int32_t>(sequence.first_position + t));
    }
  }
  size_t n_begun = 0;
  const auto abandon = [&] {
    for (size_t i = 0; i < n_begun; ++i) sequences[i].session->cache.AbandonChunk();
    sequences_ = {};
  };
  bool finished = false;
  sequences_ = sequences;
  try {
    for (; n_begun < sequences.size(); ++n_begun) {
      const Sequence& sequence = sequences[n_begun];
      sequence.session->cache.BeginChunk(n_tokens_, static_cast<int32_t>(sequence.first_position));
    }
    for (int layer = 0; layer < model_.info().n_layers; ++layer) {
      for (const Sequence& sequence : sequences) {
        const std::span<const HeadView> heads = sequence.session->cache.Views(layer);
        views_.insert(views_.end(), heads.begin(), heads.end());
      }
    }
    finished = graph.Compute(backend_.get(), tokens, positions_);
  } catch (...) {
    abandon();
    throw;
  }
  if (!finished) {
    abandon();
    int64_t n_read = 0;
    for (const Sequence& sequence : sequences) {
      if (sequence.session->cancelled.exchange(false)) n_read = sequence.session->n_read;
    }
    Fail(ErrorCode::kCancelled, "cancelled after {} tokens", n_read);
  }
  for (const Sequence& sequence : sequences) sequence.session->cache.EndChunk();
  sequences_ = {};
  return graph;
}

}  // namespace pith
