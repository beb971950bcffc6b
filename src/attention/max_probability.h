// The largest attention probability that each entry gets from any of many queries, without the
// score matrix: what KVzip (arXiv 2505.23416, section 3.2, equation 2) judges entries by.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "attention/attention.h"
#include "base/matrix_view.h"
#include "cache/layout.h"

namespace pith {

// The keys that queries of one KV head are normalised over: `extra` rows, the entries [begin, end)
// of the head, which are the ones that are judged, and of its chunk, the last n_chunk entries,
// those up to the query's own, together with entries between `tail_begin` and the chunk. Indices
// count the entries of coded tiers first; what they name is in tier 0.
struct JudgedHead {
  HeadView view;  // n_chunk = n_tokens: the queries' own entries come last
  int64_t begin = 0;
  int64_t end = 0;
  int64_t tail_begin = 0;         // end <= tail_begin <= view.n_entries() - view.n_chunk
  MatrixView<const float> extra;  // [n_extra, head_dim] keys seen by every query, not judged
};

// One layer, for a chunk of queries, run by `n_threads` threads that each call Run once with their
// own index; each pass reads the keys once per block of queries for all query heads of the group.
class MaxProbability {
 public:
  // Throws Error(kInvalidArgument) for shapes that AttentionPlan does not take.
  MaxProbability(const AttentionShape& shape, int max_threads);
  ~MaxProbability();

  // Before the threads start: n_tokens queries a head, n_judged: the largest end - begin. Takes up
  // a SIMD level forced since. Not thread-safe.
  void Prepare(int n_tokens, int64_t n_judged);

  // q: [n_tokens, n_heads, head_dim] f32. heads: [n_kv_heads], all with the same end - begin.
  // log2_divisor: [n_tokens], taken off a query's log2 probabilities, or empty.
  // log2_max: [n_heads, end - begin], raised where this chunk gives more; start from -infinity. A
  // query whose normaliser or divisor is not finite, as of NaN in it, raises nothing.
  // Complete when all threads have returned, and then the same bits for any number of them.
  void Run(const float* q, std::span<const JudgedHead> heads, std::span<const float> log2_divisor,
           float* log2_max, int thread, int n_threads);

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

// The specification: the same in double precision, one thread.
void ReferenceMaxProbability(const AttentionShape& shape, const float* q, int n_tokens,
                             std::span<const JudgedHead> heads, std::span<const float> log2_divisor,
                             double* log2_max);

}  // namespace pith
