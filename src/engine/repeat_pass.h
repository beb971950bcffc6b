// Judging entries by how much they are needed to repeat the text: the pass of KVzip (arXiv
// 2505.23416, section 3.2).
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "attention/max_probability.h"
#include "cache/cache.h"
#include "pith/model.h"
#include "scorers/scorer.h"

namespace pith {

// Tokens of the text that are repeated, and judged, at once.
inline constexpr int kRepeatChunk = 2048;

// What the model is given to repeat tokens [begin, end) of `text`: an instruction, the end of what
// came before, unless `is_first`, and the tokens themselves.
std::vector<Token> RepeatPrompt(const Tokenizer& tokenizer, std::span<const Token> text,
                                int64_t begin, int64_t end, bool is_first);
// How many tokens that will be.
int64_t RepeatPromptTokens(const Tokenizer& tokenizer, int64_t begin, int64_t end, bool is_first);

// Watches the attention of one repeat. The repeat's own entries are appended to the cache as those
// of any text; the caller removes them afterwards.
class RepeatPass {
 public:
  // Judges the entries at positions begin..end-1 of every layer from `first_layer` on. In each of
  // their heads they must lie in order of position, without gaps, and be followed by those at
  // end..n_read-1 and nothing else.
  RepeatPass(const Model& model, Needs needs, const Cache& cache, int first_layer, int n_sinks,
             int64_t begin, int64_t end, int64_t n_read, int n_threads);

  // Before the graph of the next tokens of the repeat.
  void Prepare(int n_tokens);
  // Of each layer of that graph, by each of its threads, after all have appended and before
  // EndChunk. q [n_tokens, n_heads, head_dim], hidden [n_tokens, n_embd].
  void Observe(int layer, const float* q, const float* hidden, int thread, int n_threads);

  // After the last: the worth of the entries judged, head after head; `first` is the index of the
  // first of them in its head.
  using Sink =
      std::function<void(int layer, int kv_head, int64_t first, std::span<const float> worth)>;
  void Judge(const Scorer& scorer, const Sink& sink) const;

 private:
  struct Head {
    int64_t first = 0;         // index of the entry at position `begin`
    std::vector<float> sinks;  // keys of the sinks before `begin`. [n, head_dim]
  };

  // What a thread works on, so that threads share nothing.
  struct ThreadState {
    std::vector<JudgedHead> heads;   // [n_kv_heads]
    std::vector<float> log2_hidden;  // [n_tokens]
    std::vector<float> values;       // rows whose norms are measured
    std::vector<float> key;          // [head_dim]
  };

  const Head& HeadOf(int layer, int kv_head) const {
    return heads_[size_t{1} * (layer - first_layer_) * info_.n_kv_heads + kv_head];
  }
  float* Maxima(int layer) {
    return log2_max_.data() + size_t{1} * (layer - first_layer_) * info_.n_heads * n_judged_;
  }
  // |W_O v| of a share of the layer's judged entries.
  void MeasureOutputs(int layer, int thread, int n_threads);

  Model model_;
  const ModelInfo& info_;
  Needs needs_;
  const Cache& cache_;
  int first_layer_;
  int64_t n_judged_;
  int64_t n_after_;  // entries between the judged ones and the repeat
  int n_tokens_ = 0;
  bool is_first_ = true;
  MaxProbability kernel_;
  std::vector<Head> heads_;          // [n_layers - first_layer, n_kv_heads]
  std::vector<float> log2_max_;      // [n_layers - first_layer, n_heads, n_judged]
  std::vector<float> output_norms_;  // the same, if asked for
  std::vector<ThreadState> threads_;
};

}  // namespace pith
