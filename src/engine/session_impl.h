// What stands behind pith::Session.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "budgets/budget.h"
#include "budgets/steer.h"
#include "cache/cache.h"
#include "engine/query_memory.h"
#include "engine/repeat_pass.h"
#include "engine/runner.h"
#include "engine/side_judge.h"
#include "model/graph.h"
#include "model/model_impl.h"
#include "pith/session.h"
#include "scorers/scorer.h"

namespace pith {

// Entries are judged, so that a fork can evict, but the plan itself never does.
inline bool EvictsNothing(const Plan& plan) {
  return plan.keep.kind == Keep::Kind::kFraction && plan.keep.fraction >= 1.0;
}

class Session::Impl {
 public:
  Impl(const Model& model, const Plan& plan, const SessionOptions& options);
  // With the plan's tiers, made before.
  Impl(const Model& model, const Plan& plan, const SessionOptions& options,
       std::vector<TierCodecs> tiers);

  void Read(std::span<const Token> tokens, const ReadOptions& options);
  void Next(Token token);
  // Next, around the graph: what can be refused, and what comes after. Between the two the session
  // is given to Runner::Run.
  void BeginNext(Token token);
  void EndNext(Token token, std::span<const float> logits_after);

  // The session's part of a layer of the graph, of which every thread takes its share: writes the
  // chunk's entries, judged; and after that shows its queries [n_tokens, n_heads, head_dim] and
  // hidden states [n_tokens, n_embd] to whom they concern.
  void Append(int layer, const ChunkRows& rows, int thread, int n_threads);
  void Observe(int layer, const float* q, const float* hidden, int n_tokens, int thread,
               int n_threads);

  // Sees the queries of every chunk as attention does: q [n_tokens, n_heads, head_dim] f32 after
  // RoPE. Called by one thread, layer after layer.
  using QueryTap =
      std::function<void(int layer, int32_t first_position, int n_tokens, const float* q)>;
  void SetQueryTap(QueryTap tap) { query_tap_ = std::move(tap); }

  // Sees the hidden states that enter attention, [n_tokens, n_embd] f32 after the norm, of every
  // chunk that is read; what a repeat pass reads is left out. Called as the query tap is.
  using HiddenTap =
      std::function<void(int layer, int32_t first_position, int n_tokens, const float* hidden)>;
  void SetHiddenTap(HiddenTap tap) { hidden_tap_ = std::move(tap); }

  // Judges what is judged by whole layers, and evicts down to what the plan allows for what was
  // read so far.
  void SettleNow();

  Model model;
  Plan plan;
  int n_ctx;
  int n_batch;
  int n_threads;
  Cache cache;
  int64_t n_read = 0;
  std::vector<Token> tokens;    // [n_read]
  int64_t n_judged = 0;         // tokens that a repeat pass has judged, or that are pinned
  int64_t text_begin = 0;       // first token of the text that a repeat pass repeats
  int64_t n_settled = 0;        // n_read when it was last decided what stays
  int64_t n_stored = 0;         // n_read when codes were last made of what had left the window
  int64_t n_whole_judged = -1;  // n_read when whole layers were last judged; -1: anew next time
  std::optional<Steering> steering;  // where a fraction is kept by a threshold
  std::vector<float> logits;
  std::vector<SideJudge> side_judges;  // SessionOptions::also_judge
  std::optional<QueryMemory> queries;  // where a scorer asks for any
  TimeStats times;
  std::atomic<bool> cancelled = false;

 private:
  // Has a scorer judge this thread's share of the entries that are appended, and hands them on:
  // sink(kv_head, first, keys, values, worth), with `first` counted from the chunk's first.
  // `scorer` may be null, worth is empty then. Returns the seconds that the scorer took.
  template <typename Sink>
  double Judge(const Scorer* scorer, int layer, const ChunkRows& rows, int thread, int n_threads,
               const Sink& sink) const;

  void CheckTokens(std::span<const Token> text) const;
  // Runs the tokens and appends their entries, or leaves everything as it was and throws.
  const Graph& RunAlone(std::span<const Token> tokens, int64_t first_position, Output output);
  // Before and after a chunk is run whose tokens count as read.
  void MakeRoom(size_t n_tokens);
  void CountAsRead(std::span<const Token> tokens);
  // Takes the logits that a Read asked for from the graph of tokens first_position and on.
  void TakeLogits(const Graph& graph, int64_t first_position, int64_t n_total,
                  const ReadOptions& options);

  // Has a repeat pass judge what was read since the last one. `progress` is told of every token
  // repeated. The pass leaves nothing behind, also when it is cancelled.
  void JudgeByRepeating(const std::function<void(int64_t n_tokens)>& progress);
  // Tokens that it will read for that once `n_total` are read.
  int64_t RepeatTokens(int64_t n_total) const;
  bool Repeats() const { return scorer_ && scorer_->needs().repeat_pass; }
  // The session's own scorer, if it judges by repeating, and the others that do.
  struct RepeatJudge {
    const Scorer* scorer;
    RepeatPass::Sink sink;
  };
  std::vector<RepeatJudge> RepeatJudges();
  // Has a scorer of whole layers judge all entries, unless it has since the last token was read or
  // does not know enough queries: those of a loaded session are known of what is read since.
  void JudgeWholeLayers();
  // Whether `n_new` more tokens, read and judged as a whole, need more memory than the plan allows.
  bool ExceedsLimit(int64_t n_new) const;
  // Entries that a compressed head may keep once `n_total` tokens are read.
  int64_t KeptPerHead(int64_t n_total) const;
  // Evicts down to what the plan allows after `n_total` tokens, once heads are `slack` above it on
  // average, or a threshold has not been applied for `slack` tokens.
  void Settle(int64_t n_total, int64_t slack);
  // Moves what has left the window, and is neither a sink nor pinned, down to the tiers that the
  // plan has for it after `n_total` tokens, if it was just decided what stays, or once `slack`
  // tokens were read.
  void StoreCodes(int64_t n_total, int64_t slack);
  // What is in `tier`, or before it, and is not among the best that may stay there.
  void MoveBelow(int tier, int64_t n_total);
  // All of the exact tier.
  void MoveExact();
  bool Compressed(int layer) const { return scorer_ && layer >= plan.skip_layers; }

  Runner runner_;
  std::unique_ptr<Scorer> scorer_;  // null: everything is kept
  std::unique_ptr<Budget> budget_;
  std::unique_ptr<Budget> tier_budget_;  // which says who is in which tier
  std::vector<Tier> tiers_;              // Plan::StoredTiers
  std::unique_ptr<LogitsHead> head_;
  std::vector<HeadEntries> candidates_;  // of Settle, kept to reuse their memory
  Verdicts verdicts_;
  QueryTap query_tap_;
  HiddenTap hidden_tap_;
  std::unique_ptr<RepeatPass> repeat_pass_;  // while one runs
  bool pinning_ = false;                     // what is appended stays
};

}  // namespace pith
