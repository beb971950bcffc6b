// What a session remembers of the queries of its tokens, for scorers that ask for it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "pith/model.h"
#include "scorers/scorer.h"

namespace pith {

// The queries of a chunk count once it was read: what Observe is shown is set aside until Commit,
// and forgotten by the next Begin. Copies go on independently.
class QueryMemory {
 public:
  // Remembers what `needs` asks for, in layers from `first_layer` on. Queries at positions below
  // `n_sinks` do not count in moments.
  QueryMemory(const Model& model, int first_layer, int n_sinks, const Needs& needs);

  // Whether a scorer with such needs would have to be given anything of this.
  static bool IsAskedFor(const Needs& needs);

  // Before the graph of a chunk, and after it.
  void Begin(int64_t first_position, int n_tokens);
  void Commit();
  // Of each layer of the graph, by each of its threads: q [n_tokens, n_heads, head_dim].
  void Observe(int layer, const float* q, int thread, int n_threads);

  // Forgets the recent queries of tokens at `position` and later. Moments stay, as long as any of
  // what they are made of does.
  void DropFrom(int64_t position);
  // Becomes what `other` is, as far as this remembers the same.
  void Take(const QueryMemory& other);

  // Whether all that `needs` asks for is known, or all that there can be of `n_read` tokens.
  bool Suffices(const Needs& needs, int64_t n_read) const;
  // The last `n` of the recent queries, or as many as there are, the latest last.
  std::vector<int32_t> RecentPositions(int n) const;
  std::span<const float> Recent(int layer, int32_t position) const;  // [n_heads * head_dim]
  std::span<const QueryMoments> Moments(int layer) const;            // [n_heads], or empty

 private:
  struct Layer {
    std::vector<float> recent;          // [n_recent, n_heads * head_dim], at position % n_recent
    std::vector<float> coming;          // the same, of the chunk
    std::vector<QueryMoments> moments;  // [n_heads]
    std::vector<QueryMoments> added;    // the same, of the chunk
    // Turned back queries of tokens read one by one, which are added to moments a run at a time.
    std::vector<float> run;  // [n_heads, kRun, head_dim]
  };

  size_t row_size() const { return size_t{1} * n_heads_ * head_dim_; }
  size_t SlotOf(int64_t position) const { return static_cast<size_t>(position % n_recent_); }
  // First token of the chunk whose queries stay among the recent ones.
  int64_t FirstRecent() const;

  Model model_;
  int first_layer_;
  int n_sinks_;
  int n_heads_;
  size_t head_dim_;
  int n_recent_;
  bool keeps_moments_;
  std::vector<Layer> layers_;        // [n_layers - first_layer]
  std::vector<int32_t> positions_;   // [n_recent]; -1: none
  int64_t n_moments_ = 0;            // tokens in moments, and in the run
  int n_run_ = 0;                    // tokens in the run
  int64_t begin_ = 0;                // of the chunk
  int n_tokens_ = 0;                 // of the chunk
  std::vector<Rotation> rotations_;  // of the chunk's tokens
};

}  // namespace pith
