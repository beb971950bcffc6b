// How much the entries of a text are looked at by what follows in it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "calibrate/kvzap_shards.h"
#include "model/output_norm.h"
#include "pith/model.h"

namespace pith {

class Cache;

// Watches a text being read with nothing evicted, as the taps of a session.
class ReceivedAttention {
 public:
  // Keeps n_tokens queries and hidden norms of every layer.
  ReceivedAttention(const ModelInfo& info, int n_tokens);

  // hidden [n, n_embd], q [n, n_heads, head_dim]; later calls for tokens past the text are ignored.
  void TakeHidden(int layer, int32_t first, int n, const float* hidden);
  void TakeQueries(int layer, int32_t first, int n, const float* q);

  // How many of `positions`, ascending, are far enough from the end to be looked at by any query.
  int64_t CountSeen(std::span<const int32_t> positions) const;

  // For the first CountSeen(positions) of them, ln of the largest over the query heads g of
  //   mean over queries j >= position + 128 of a_gji |W_O^g v_i| / |h_j|:
  // what KVzip+ asks of the worst query of a repeat, asked of the average query of what follows.
  // `cache` holds every entry of the text in order.
  void Log(int layer, int kv_head, const Cache& cache, const OutputNorms& norms,
           std::span<const int32_t> positions, std::span<float> log_received) const;

  // What the entries receive as it is: for all but the last `distance` of them the mean of a_gji
  // over the query heads g and the queries j >= position + distance. [n_tokens - distance]
  std::vector<double> Mean(int layer, int kv_head, const Cache& cache, int64_t distance) const;

 private:
  // Sum over queries j of a_gji / norm(j) for the entries i <= j - distance; the norm of hidden
  // states, or 1. [n_tokens]
  std::vector<float> Sum(int layer, int head, std::span<const float> keys, int64_t distance,
                         bool by_hidden) const;

  const ModelInfo& info_;
  int64_t n_tokens_;
  std::vector<float> queries_;       // [n_layers, n_tokens, n_heads, head_dim]
  std::vector<float> hidden_norms_;  // [n_layers, n_tokens]
};

}  // namespace pith
