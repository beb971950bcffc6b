// Gives every entry a worth by which the budget decides what stays.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>

#include "base/matrix_view.h"
#include "model/rope.h"
#include "pith/plan.h"
#include "scorers/query_moments.h"

namespace pith {

// Entries of one (layer, KV head), oldest first.
struct Entries {
  int layer = 0;
  int kv_head = 0;
  std::span<const int32_t> positions;  // [n]
  MatrixView<const float> keys;        // [n, head_dim], after RoPE
  MatrixView<const float> values;      // [n, head_dim]
};

// Tokens in one layer as they enter attention, for scorers that judge all KV heads at once.
struct HiddenStates {
  int layer = 0;
  MatrixView<const float> rows;  // [n, n_embd], after the norm
  // The entries they become, heads side by side. [n, n_kv_heads * head_dim], keys after RoPE
  MatrixView<const float> keys = {};
  MatrixView<const float> values = {};
};

// What repeating the text has shown about entries of one (layer, KV head).
struct RepeatEvidence {
  int n_entries = 0;
  int group = 0;  // query heads
  // log2 of the largest attention probability that any query of the repeat gave the entry, divided
  // by that query's hidden norm if the scorer asks for output norms. [group, n_entries]
  std::span<const float> log2_probability;
  // |W_O v|: what the entry writes into the residual stream through a query head. [group,
  // n_entries], empty unless asked for
  std::span<const float> output_norm;
};

// All that is kept of one layer, and the queries that are known of it.
struct LayerEvidence {
  int layer = 0;
  int group = 0;                   // query heads of a KV head
  int n_sinks = 0;                 // entries at positions below this never go,
  int32_t window_begin = 0;        // nor do those from here on, to the token read last
  std::span<const Entries> heads;  // [n_kv_heads], each in any order, as the cache stores them
  // Needs::recent_queries: of the tokens read last, the latest last. Fewer only where fewer were
  // read.
  std::span<const int32_t> query_positions;  // [n]
  MatrixView<const float> queries;           // [n, n_heads * head_dim], after RoPE
  // Needs::query_moments: of all queries but those of sinks, before RoPE. [n_heads]
  std::span<const QueryMoments> moments;
  // Needs::future_positions: what RoPE does to the queries to come, on average.
  Rotation future;
};

// Worth of an entry that waits to be judged by JudgeLayer: the last to go, but unlike one that is
// pinned (+infinity) it can.
inline constexpr float kUnjudged = std::numeric_limits<float>::max();

// What a scorer must be given. Nothing that it does not ask for is computed.
struct Needs {
  bool repeat_pass = false;    // judged by JudgeRepeat after the text was read, not when appended
  bool output_norms = false;   // with the repeat pass: hidden norms and |W_O v|
  bool hidden_states = false;  // judged by ScoreHidden when appended, not by Score
  // Judged by JudgeLayer, all entries anew whenever it is decided what stays, not when appended.
  bool whole_layers = false;
  int recent_queries = 0;      // with whole layers: the queries of so many tokens
  bool query_moments = false;  // with whole layers: mean and covariance of the queries so far
  int future_positions = 0;    // with whole layers: RoPE averaged over so many
};

// Higher stays longer. Stateless between calls, safe to call from many threads. An entry is judged
// once, unless whole layers are; its worth is kept beside it.
class Scorer {
 public:
  virtual ~Scorer() = default;
  virtual Needs needs() const { return {}; }
  // Worths of different heads can be compared, so that heads may share a budget.
  virtual bool comparable_across_heads() const { return false; }
  // As entries are appended. worth [n]; kUnjudged of scorers of whole layers
  virtual void Score(const Entries& entries, std::span<float> worth) const;
  // The same for scorers of hidden states: the entries of every KV head. worth [n_kv_heads, n]
  virtual void ScoreHidden(const HiddenStates& hidden, std::span<float> worth) const;
  // Scorers with a repeat pass: worth [n_entries].
  virtual void JudgeRepeat(const RepeatEvidence& evidence, std::span<float> worth) const;
  // Scorers of whole layers: worth [n_kv_heads][n], finite.
  virtual void JudgeLayer(const LayerEvidence& evidence,
                          std::span<const std::span<float>> worth) const;
};

// The scorer that `plan` names, for a model. Null when the plan keeps everything.
// Throws Error(kInvalidArgument) for an unknown name, Error(kMismatch) for a foreign calibration.
std::unique_ptr<Scorer> MakeScorer(const Plan& plan, const ModelInfo& model);

}  // namespace pith
