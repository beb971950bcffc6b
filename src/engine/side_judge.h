// Worths by other scorers than the session's own (SessionOptions::also_judge).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cache/cache.h"
#include "pith/plan.h"
#include "scorers/scorer.h"

namespace pith {

// Nothing is evicted while one of these watches, so an entry's position is its index.
class SideJudge {
 public:
  SideJudge(const Plan& plan, const ModelInfo& model);

  const Plan& plan() const { return plan_; }
  const Scorer& scorer() const { return *scorer_; }
  bool repeats() const { return scorer_->needs().repeat_pass; }

  // Makes room for tokens 0..n_tokens-1, or forgets later ones; new entries are worth +infinity.
  void Resize(int64_t n_tokens);
  // Of the entries at positions first..first+n-1. Different heads or different entries may be set
  // by different threads.
  void Set(int layer, int kv_head, int64_t first, std::span<const float> worth);
  // Puts the worths beside the entries of `cache`, where layers below `first_layer` have none.
  void Give(int first_layer, Cache& cache) const;

 private:
  Plan plan_;
  std::shared_ptr<const Scorer> scorer_;
  int n_layers_;
  int n_kv_heads_;
  std::vector<std::vector<float>> worth_;  // [n_layers * n_kv_heads][n_tokens]
};

}  // namespace pith
