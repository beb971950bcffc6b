// Attention over ragged f16 pages. Query t of a chunk sees the n_entries - n_chunk entries before
// the chunk and, if n_chunk > 0, the chunk's entries 0..t.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cache/layout.h"

namespace pith {

struct AttentionShape {
  int head_dim = 0;    // multiple of 8 (64, 80, 96, 128, 256 are tested), at most 256
  int n_heads = 0;     // query heads
  int n_kv_heads = 0;  // divides n_heads; query heads [g*group, (g+1)*group) share KV head g
  float scale = 0;     // of q.k, usually head_dim^-1/2
};

// Throws Error(kInvalidArgument) for a shape outside these ranges, or no thread.
void CheckAttentionShape(const AttentionShape& shape, int max_threads);

// One layer's attention for a chunk of queries, run by `n_threads` threads that each call Run once
// with their own index. No score matrix is materialised. May be used again after all have returned.
class AttentionPlan {
 public:
  // Scratch is allocated here and in Prepare, never in Run.
  AttentionPlan(const AttentionShape& shape, int max_threads);
  ~AttentionPlan();

  // Before the threads start, once per chunk size: `n_tokens` queries a head in each of
  // `n_sequences` sequences that have nothing to do with each other; one of each if never called.
  // Takes up a SIMD level forced since. Not thread-safe.
  void Prepare(int n_tokens, int n_sequences = 1);

  // q, out: [n_sequences, n_tokens, n_heads, head_dim] f32, contiguous. heads: [n_sequences,
  // n_kv_heads]; n_chunk is 0 or n_tokens. A head with no visible entry gives zeros. Called by
  // threads 0..n_threads-1 at once; `out` is complete when all have returned. n_threads <=
  // max_threads.
  void Run(const float* q, std::span<const HeadView> heads, float* out, int thread, int n_threads);

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

// The specification: the same in double precision, one thread, written to be read.
void ReferenceAttention(const AttentionShape& shape, const float* q, int n_tokens,
                        std::span<const HeadView> heads, double* out);

// SIMD levels: names as Highway gives them ("AVX2", "AVX3", "SSE4", ...), best first.
std::vector<std::string> AvailableSimdLevels();
std::string CurrentSimdLevel();
// For tests and benchmarks: false if the machine has no such level. "" gives the best again.
bool ForceSimdLevel(const std::string& name);

}  // namespace pith
