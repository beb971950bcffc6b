#include "engine/session_impl.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <thread>

#include <ggml-cpu.h>

#include "base/fail.h"

namespace pith {
namespace {

// Entries above the budget that decoding lets come together before it evicts, so that choosing
// costs little per token.
constexpr int64_t kDecodeSlack = 32;

// Graphs kept for reuse: one token, a full chunk, and the odd remainder of a prompt.
constexpr size_t kMaxGraphs = 3;

double Now() {
  using std::chrono::steady_clock;
  return std::chrono::duration<double>(steady_clock::now().time_since_epoch()).count();
}

int ThreadCount(int asked) {
  if (asked < 0 || asked > 512) {
    Fail(ErrorCode::kInvalidArgument,
         "{} threads make no sense, use 1 to 512, or 0 for one per core", asked);
  }
  return asked > 0 ? asked : std::max(1u, std::thread::hardware_concurrency());
}

int BatchSize(int asked, int n_ctx) {
  if (asked < 1)
    Fail(ErrorCode::kInvalidArgument, "a batch of {} tokens, expected at least 1", asked);
  return std::min(asked, n_ctx);
}

int ContextSize(int asked, const ModelInfo& model) {
  if (asked < 0 || asked > model.n_ctx_train) {
    Fail(ErrorCode::kInvalidArgument, "a context of {} tokens, but the model was trained for {}",
         asked, model.n_ctx_train);
  }
  return asked > 0 ? asked : model.n_ctx_train;
}

// Before anything is allocated for it.
const Plan& Checked(const Plan& plan, const ModelInfo& model) {
  CheckPlan(plan);
  if (plan.skip_layers > model.n_layers) {
    Fail(ErrorCode::kInvalidArgument, "cannot leave {} layers whole, the model has {}",
         plan.skip_layers, model.n_layers);
  }
  return plan;
}

}  // namespace

Session::Impl::Impl(const Model& model_in, const Plan& plan_in, const SessionOptions& options)
    : model(model_in),
      plan(Checked(plan_in, model.info())),
      n_ctx(ContextSize(options.n_ctx, model.info())),
      n_batch(BatchSize(options.n_batch, n_ctx)),
      n_threads(ThreadCount(options.n_threads)),
      cache({model.info().n_layers, model.info().n_kv_heads, model.info().head_dim},
            MakeKeyCodec(plan.key_codec), MakeValueCodec(plan.value_codec), plan.kv_limit),
      backend_(ggml_backend_cpu_init()),
      attention_({model.info().head_dim, model.info().n_heads, model.info().n_kv_heads,
                  1.0f / std::sqrt(static_cast<float>(model.info().head_dim))},
                 n_threads),
      scorer_(MakeScorer(plan, model.info())),
      budget_(std::make_unique<UniformBudget>()) {
  if (!backend_) Fail(ErrorCode::kIo, "ggml has no CPU backend");
  ggml_backend_cpu_set_n_threads(backend_.get(), n_threads);
  ggml_backend_cpu_set_abort_callback(
      backend_.get(),
      [](void* flag) {
        return static_cast<std::atomic<bool>*>(flag)->load(std::memory_order_relaxed);
      },
      &cancelled);
  layer_states_.resize(static_cast<size_t>(model.info().n_layers));
  for (int i = 0; i < model.info().n_layers; ++i) {
    layer_states_[i] = {this, i};
    layer_ops_.push_back({AppendOp, AttendOp, &layer_states_[i]});
  }
}

void Session::Impl::AppendOp(ggml_tensor* dst, int thread, int n_threads, void* user) {
  auto* state = static_cast<LayerState*>(user);
  state->session->Append(state->layer, *dst->src[0], *dst->src[1], thread, n_threads);
}

void Session::Impl::AttendOp(ggml_tensor* dst, int thread, int n_threads, void* user) {
  auto* state = static_cast<LayerState*>(user);
  state->session->Attend(state->layer, *dst->src[0], static_cast<float*>(dst->data), thread,
                         n_threads);
}

// Threads share the (KV head, token) pairs in equal runs.
void Session::Impl::Append(int layer, const ggml_tensor& k, const ggml_tensor& v, int thread,
                           int n_threads_now) {
  const ModelInfo& info = model.info();
  const size_t head_dim = static_cast<size_t>(info.head_dim);
  const size_t stride = head_dim * info.n_kv_heads;
  const int n_tokens = static_cast<int>(k.ne[2]);
  const int64_t n_pairs = int64_t{info.n_kv_heads} * n_tokens;
  const int64_t end = n_pairs * (thread + 1) / n_threads_now;
  std::vector<float> worth;
  for (int64_t pair = n_pairs * thread / n_threads_now; pair < end;) {
    const int kv_head = static_cast<int>(pair / n_tokens);
    const int first = static_cast<int>(pair % n_tokens);
    const size_t n = static_cast<size_t>(std::min<int64_t>(n_tokens - first, end - pair));
    const size_t offset = first * stride + kv_head * head_dim;
    const MatrixView<const float> keys{static_cast<const float*>(k.data) + offset, n, head_dim,
                                       stride};
    const MatrixView<const float> values{static_cast<const float*>(v.data) + offset, n, head_dim,
                                         stride};
    if (Compressed(layer)) {
      worth.resize(n);
      scorer_->Score(
          {layer, kv_head, cache.ChunkPositions(layer, kv_head).subspan(first, n), keys, values},
          worth);
    }
    cache.Write(layer, kv_head, first, keys, values, worth);
    pair += static_cast<int64_t>(n);
  }
}

void Session::Impl::Attend(int layer, const ggml_tensor& q, float* out, int thread,
                           int n_threads_now) {
  const double begin = thread == 0 ? Now() : 0;
  const float* queries = static_cast<const float*>(q.data);
  if (thread == 0 && query_tap_) {
    query_tap_(layer, static_cast<int32_t>(n_read), static_cast<int>(q.ne[2]), queries);
  }
  attention_.Run(queries, cache.Views(layer), out, thread, n_threads_now);
  if (thread == 0) times.attention_s += Now() - begin;
}

void Session::Impl::CheckTokens(std::span<const Token> tokens) const {
  const int64_t n_after = n_read + static_cast<int64_t>(tokens.size());
  if (n_after > n_ctx) {
    Fail(ErrorCode::kInvalidArgument,
         "{} tokens would follow {} already read, over the context of {}", tokens.size(), n_read,
         n_ctx);
  }
  for (const Token token : tokens) {
    if (token < 0 || token >= model.info().n_vocab) {
      Fail(ErrorCode::kInvalidArgument, "token {} is outside the vocabulary of {}", token,
           model.info().n_vocab);
    }
  }
}

Graph& Session::Impl::GraphFor(int n_tokens, Output output) {
  const auto fits = [&](const auto& graph) {
    return graph->n_tokens() == n_tokens && graph->output() == output;
  };
  auto found = std::find_if(graphs_.begin(), graphs_.end(), fits);
  if (found == graphs_.end()) {
    if (graphs_.size() == kMaxGraphs) graphs_.erase(graphs_.begin());
    graphs_.push_back(std::make_unique<Graph>(*model.impl().weights, model.impl().hparams,
                                              layer_ops_, n_tokens, output));
  } else {
    std::rotate(found, found + 1, graphs_.end());
  }
  return *graphs_.back();
}

Graph& Session::Impl::RunChunk(std::span<const Token> tokens, Output output) {
  const int n_tokens = static_cast<int>(tokens.size());
  Graph& graph = GraphFor(n_tokens, output);
  cache.BeginChunk(n_tokens, static_cast<int32_t>(n_read));
  bool finished = false;
  try {
    attention_.Prepare(n_tokens);
    finished = graph.Compute(backend_.get(), tokens, static_cast<int32_t>(n_read));
  } catch (...) {
    cache.AbandonChunk();
    throw;
  }
  if (!finished) {
    cache.AbandonChunk();
    cancelled = false;
    Fail(ErrorCode::kCancelled, "cancelled after {} tokens", n_read);
  }
  cache.EndChunk();
  n_read += n_tokens;
  this->tokens.insert(this->tokens.end(), tokens.begin(), tokens.end());
  return graph;
}

int64_t Session::Impl::KeptPerHead(int64_t n_total) const {
  const ModelInfo& info = model.info();
  return EntriesPerHead(plan, n_total, int64_t{info.n_layers - plan.skip_layers} * info.n_kv_heads,
                        int64_t{plan.skip_layers} * info.n_kv_heads, cache.bytes_per_page());
}

void Session::Impl::Settle(int64_t n_total, int64_t slack) {
  if (!scorer_) return;
  const double begin = Now();
  const ModelInfo& info = model.info();
  const int64_t compressed_heads = int64_t{info.n_layers - plan.skip_layers} * info.n_kv_heads;
  if (compressed_heads == 0) return;
  const int64_t per_head = KeptPerHead(n_total);
  candidates_.clear();
  int64_t n_entries = 0;
  for (int layer = plan.skip_layers; layer < info.n_layers; ++layer) {
    for (int h = 0; h < info.n_kv_heads; ++h) {
      candidates_.push_back(cache.Entries(layer, h));
      n_entries += cache.n_entries(layer, h);
    }
  }
  if (n_entries > (per_head + slack) * compressed_heads) {
    const BudgetLimits limits{plan.sinks, static_cast<int32_t>(n_read - plan.window),
                              per_head * compressed_heads};
    budget_->Allocate(candidates_, limits, verdicts_);
    for (size_t i = 0; i < candidates_.size(); ++i) {
      cache.Evict(candidates_[i].layer, candidates_[i].kv_head, verdicts_[i]);
    }
  }
  times.settle_s += Now() - begin;
}

void Session::Impl::Read(std::span<const Token> tokens, const ReadOptions& options) {
  if (tokens.empty()) return;
  CheckTokens(tokens);
  KeptPerHead(n_read + static_cast<int64_t>(tokens.size()));  // throws before anything is read
  const double begin = Now();
  const int64_t n_before = n_read;
  const int64_t n_total = n_read + static_cast<int64_t>(tokens.size());
  while (n_read < n_total) {
    const auto left = tokens.subspan(static_cast<size_t>(n_read - n_before));
    const auto chunk = left.first(std::min<size_t>(left.size(), static_cast<size_t>(n_batch)));
    const bool is_last = chunk.size() == left.size();
    const int64_t chunk_position = n_read;
    const Graph& graph = RunChunk(chunk, options.on_logits || query_tap_ ? Output::kHidden
                                         : is_last                       ? Output::kLastLogits
                                                                         : Output::kNone);
    if (graph.output() == Output::kLastLogits) {
      logits.assign(graph.result().begin(), graph.result().end());
    } else if (graph.output() == Output::kHidden) {
      if (!head_) head_ = std::make_unique<LogitsHead>(*model.impl().weights, model.impl().hparams);
      const size_t n_embd = static_cast<size_t>(model.info().n_embd);
      const auto wanted = options.on_logits ? graph.result() : graph.result().last(n_embd);
      const int64_t first = chunk_position + (options.on_logits ? 0 : graph.n_tokens() - 1);
      head_->Compute(backend_.get(), wanted, [&](int row, std::span<const float> row_logits) {
        if (options.on_logits) options.on_logits(first + row, row_logits);
        if (first + row + 1 == n_total) logits.assign(row_logits.begin(), row_logits.end());
      });
    }
    Settle(n_total, 0);
    if (options.progress && !options.progress(n_read - n_before, n_total - n_before)) {
      if (!is_last) Fail(ErrorCode::kCancelled, "cancelled after {} tokens", n_read);
    }
  }
  cache.Trim();
  times.read_s += Now() - begin;
  times.read_tokens += n_total - n_before;
}

void Session::Impl::Next(Token token) {
  CheckTokens({&token, 1});
  KeptPerHead(n_read + 1);  // throws before anything is read
  const double begin = Now();
  const Graph& graph = RunChunk({&token, 1}, Output::kLastLogits);
  logits.assign(graph.result().begin(), graph.result().end());
  Settle(n_read, kDecodeSlack);
  times.next_s += Now() - begin;
  times.next_tokens += 1;
}

}  // namespace pith
