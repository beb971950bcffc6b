#include "model/graph.h"

#include "base/fail.h"
#include "model/split_q4_1.h"

namespace pith {
namespace {

MatrixView<float> Rows(const ggml_tensor* t) {
  const auto n = static_cast<size_t>(t->ne[0]);
  return {static_cast<float*>(t->data), static_cast<size_t>(t->ne[1]), n, n};
}

// dst += rest, src[1], times the block sums of src[2]. See split_q4_1.h.
void AddRest(ggml_tensor* dst, int thread, int n_threads, void*) {
  const MatrixView<float> x = Rows(dst->src[2]);
  AddRestProduct(static_cast<const ggml_fp16_t*>(dst->src[1]->data),
                 {x.data, x.rows, x.cols, x.stride}, Rows(dst), thread, n_threads);
}

// Builds the decoder block that llama, qwen2 and qwen3 share.
class DecoderBuilder {
 public:
  DecoderBuilder(ggml_context* context, const Weights& weights, const HyperParams& hparams,
                 ggml_tensor* positions)
      : g_(context), weights_(weights), h_(hparams), positions_(positions) {}

  ggml_tensor* RmsNorm(ggml_tensor* x, ggml_tensor* gain) const {
    return ggml_mul(g_, ggml_rms_norm(g_, x, h_.norm_eps), gain);
  }

  // [n_in, n_tokens] -> [n_out, n_tokens], whose rows may lie further apart than n_out.
  ggml_tensor* Multiply(const Linear& linear, ggml_tensor* x) const {
    ggml_tensor* y = Product(linear, x);
    if (linear.n_out < y->ne[0]) {
      y = ggml_view_2d(g_, y, linear.n_out, y->ne[1], y->nb[1], linear.first_out * y->nb[0]);
    }
    return linear.bias ? ggml_add(g_, y, linear.bias) : y;
  }

  // q or k heads: [n_in, n_tokens] -> [head_dim, n_heads, n_tokens] after norm and RoPE.
  ggml_tensor* RotatedHeads(const Linear& linear, ggml_tensor* x, int n_heads,
                            ggml_tensor* norm) const {
    ggml_tensor* y = Heads(Multiply(linear, x), n_heads);
    if (norm) y = RmsNorm(y, norm);
    const RopeScaling& s = h_.rope_scaling;
    return ggml_rope_ext(g_, y, positions_, weights_.rope_factors, h_.n_rot,
                         h_.rope_interleaved ? GGML_ROPE_TYPE_NORMAL : GGML_ROPE_TYPE_NEOX,
                         s.n_ctx_original, h_.rope_freq_base, s.freq_scale, s.ext_factor,
                         s.attn_factor, s.beta_fast, s.beta_slow);
  }

  // Writes this layer's K and V; the result orders what follows after it.
  ggml_tensor* Append(const LayerWeights& layer, const LayerOps& ops, ggml_tensor* x) const {
    ggml_tensor* k = RotatedHeads(layer.k, x, h_.n_kv_heads, layer.k_norm);
    ggml_tensor* v = Heads(Multiply(layer.v, x), h_.n_kv_heads);
    ggml_tensor* sources[] = {k, v, x};
    return ggml_custom_4d(g_, GGML_TYPE_F32, 1, 1, 1, 1, sources, 3, ops.append, GGML_N_TASKS_MAX,
                          ops.user);
  }

  ggml_tensor* Attend(const LayerWeights& layer, const LayerOps& ops, ggml_tensor* x,
                      ggml_tensor* appended) const {
    ggml_tensor* q = RotatedHeads(layer.q, x, h_.n_heads, layer.q_norm);
    ggml_tensor* sources[] = {q, appended, x};
    return ggml_custom_4d(g_, GGML_TYPE_F32, int64_t{h_.n_heads} * h_.head_dim, x->ne[1], 1, 1,
                          sources, 3, ops.attend, GGML_N_TASKS_MAX, ops.user);
  }

  ggml_tensor* FeedForward(const LayerWeights& layer, ggml_tensor* x) const {
    ggml_tensor* gate = Multiply(layer.gate, x);
    ggml_tensor* up = Multiply(layer.up, x);
    return Multiply(layer.down, ggml_swiglu_split(g_, gate, up));
  }

 private:
  // By the whole matrix; those that share it come one after the other and with the same x.
  ggml_tensor* Product(const Linear& linear, ggml_tensor* x) const {
    if (linear.weight != multiplied_ || x != multiplied_by_) {
      product_ = ggml_mul_mat(g_, linear.weight, x);
      if (linear.rest) {
        ggml_tensor* sources[] = {linear.rest, x};
        product_ =
            ggml_custom_inplace(g_, product_, sources, 2, AddRest, GGML_N_TASKS_MAX, nullptr);
      }
      multiplied_ = linear.weight;
      multiplied_by_ = x;
    }
    return product_;
  }

  ggml_tensor* Heads(ggml_tensor* y, int n_heads) const {
    return ggml_view_3d(g_, y, h_.head_dim, n_heads, y->ne[1], h_.head_dim * y->nb[0], y->nb[1], 0);
  }

  ggml_context* g_;
  const Weights& weights_;
  const HyperParams& h_;
  ggml_tensor* positions_;
  mutable const ggml_tensor* multiplied_ = nullptr;  // what product_ is of
  mutable const ggml_tensor* multiplied_by_ = nullptr;
  mutable ggml_tensor* product_ = nullptr;
};

ggml_context_ptr NewContext(size_t n_nodes) {
  const size_t size =
      ggml_tensor_overhead() * n_nodes * 2 + ggml_graph_overhead_custom(n_nodes, false);
  ggml_context_ptr context(ggml_init({size, nullptr, true}));
  if (!context) Fail(ErrorCode::kIo, "no memory for a graph of {} nodes", n_nodes);
  return context;
}

ggml_gallocr_ptr Allocate(ggml_cgraph* graph) {
  ggml_gallocr_ptr allocator(ggml_gallocr_new(ggml_backend_cpu_buffer_type()));
  if (!allocator || !ggml_gallocr_alloc_graph(allocator.get(), graph)) {
    Fail(ErrorCode::kIo, "no memory for the activations of a graph");
  }
  return allocator;
}

}  // namespace

Graph::Graph(const Weights& weights, const HyperParams& hparams, std::span<const LayerOps> ops,
             int n_tokens, Output output)
    : n_tokens_(n_tokens), output_(output) {
  const size_t n_nodes = 64 + 80 * static_cast<size_t>(hparams.n_layers);
  context_ = NewContext(n_nodes);
  ggml_context* g = context_.get();
  graph_ = ggml_new_graph_custom(g, n_nodes, false);

  tokens_ = ggml_new_tensor_1d(g, GGML_TYPE_I32, n_tokens);
  positions_ = ggml_new_tensor_1d(g, GGML_TYPE_I32, n_tokens);
  ggml_set_input(tokens_);
  ggml_set_input(positions_);
  if (output == Output::kLastLogits) {
    last_ = ggml_new_tensor_1d(g, GGML_TYPE_I32, 1);
    ggml_set_input(last_);
  }

  const DecoderBuilder build(g, weights, hparams, positions_);
  ggml_tensor* x = ggml_get_rows(g, weights.token_embd, tokens_);
  for (int i = 0; i < hparams.n_layers; ++i) {
    const LayerWeights& layer = weights.layers[i];
    const bool is_last = i + 1 == hparams.n_layers;
    ggml_tensor* normed = build.RmsNorm(x, layer.attn_norm);
    ggml_tensor* appended = build.Append(layer, ops[i], normed);
    if (is_last && output == Output::kNone) {
      x = appended;
      break;
    }
    ggml_tensor* attended = build.Attend(layer, ops[i], normed, appended);
    if (is_last && output == Output::kQueries) {
      x = attended;
      break;
    }
    if (is_last && output == Output::kLastLogits && n_tokens > 1) {
      attended = ggml_get_rows(g, attended, last_);
      x = ggml_get_rows(g, x, last_);
    }
    x = ggml_add(g, build.Multiply(layer.attn_output, attended), x);
    x = ggml_add(g, build.FeedForward(layer, build.RmsNorm(x, layer.ffn_norm)), x);
  }
  const bool wants_logits = output == Output::kLastLogits || output == Output::kLogits;
  if (wants_logits || output == Output::kHidden) x = build.RmsNorm(x, weights.output_norm);
  if (wants_logits) x = build.Multiply(weights.output, x);
  result_ = x;
  ggml_set_output(result_);
  ggml_build_forward_expand(graph_, result_);
  allocator_ = Allocate(graph_);
}

bool Graph::Compute(ggml_backend_t backend, std::span<const Token> tokens,
                    std::span<const int32_t> positions) {
  ggml_backend_tensor_set(tokens_, tokens.data(), 0, tokens.size_bytes());
  ggml_backend_tensor_set(positions_, positions.data(), 0, positions.size_bytes());
  if (last_ && last_->data) {
    const int32_t last = n_tokens_ - 1;
    ggml_backend_tensor_set(last_, &last, 0, sizeof(last));
  }
  const ggml_status status = ggml_backend_graph_compute(backend, graph_);
  if (status == GGML_STATUS_ABORTED) return false;
  if (status != GGML_STATUS_SUCCESS) {
    Fail(ErrorCode::kIo, "ggml could not compute a graph of {} tokens (status {})", n_tokens_,
         static_cast<int>(status));
  }
  return true;
}

std::span<const float> Graph::result() const {
  return {static_cast<const float*>(result_->data), static_cast<size_t>(ggml_nelements(result_))};
}

LogitsHead::LogitsHead(const Weights& weights, const HyperParams& hparams)
    : n_embd_(hparams.n_embd), n_vocab_(hparams.n_vocab), context_(NewContext(16)) {
  ggml_context* g = context_.get();
  graph_ = ggml_new_graph_custom(g, 16, false);
  hidden_ = ggml_new_tensor_2d(g, GGML_TYPE_F32, n_embd_, kRows);
  ggml_set_input(hidden_);
  logits_ = DecoderBuilder(g, weights, hparams, nullptr).Multiply(weights.output, hidden_);
  ggml_set_output(logits_);
  ggml_build_forward_expand(graph_, logits_);
  allocator_ = Allocate(graph_);
}

void LogitsHead::Compute(ggml_backend_t backend, std::span<const float> hidden,
                         const std::function<void(int row, std::span<const float> logits)>& each) {
  const int n_rows = static_cast<int>(hidden.size()) / n_embd_;
  for (int begin = 0; begin < n_rows; begin += kRows) {
    const int n = std::min(kRows, n_rows - begin);
    ggml_backend_tensor_memset(hidden_, 0, 0, ggml_nbytes(hidden_));
    ggml_backend_tensor_set(hidden_, hidden.data() + size_t{1} * begin * n_embd_, 0,
                            size_t{1} * n * n_embd_ * sizeof(float));
    if (ggml_backend_graph_compute(backend, graph_) != GGML_STATUS_SUCCESS) {
      Fail(ErrorCode::kIo, "ggml could not compute the logits");
    }
    const float* logits = static_cast<const float*>(logits_->data);
    for (int i = 0; i < n; ++i) {
      each(begin + i, {logits + size_t{1} * i * n_vocab_, static_cast<size_t>(n_vocab_)});
    }
  }
}

}  // namespace pith
