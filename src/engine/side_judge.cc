#include "engine/side_judge.h"

#include <algorithm>
#include <limits>

namespace pith {

SideJudge::SideJudge(const Plan& plan, const ModelInfo& model)
    : plan_(plan),
      scorer_([&] {
        Plan judging = plan;  // one that keeps everything would have no scorer
        judging.keep.kind = Keep::Kind::kFraction;
        return MakeScorer(judging, model);
      }()),
      n_layers_(model.n_layers),
      n_kv_heads_(model.n_kv_heads),
      worth_(size_t{1} * n_layers_ * n_kv_heads_) {}

void SideJudge::Resize(int64_t n_tokens) {
  for (std::vector<float>& worth : worth_) {
    worth.resize(static_cast<size_t>(n_tokens), std::numeric_limits<float>::infinity());
  }
}

void SideJudge::Set(int layer, int kv_head, int64_t first, std::span<const float> worth) {
  std::copy(worth.begin(), worth.end(),
            worth_[size_t{1} * layer * n_kv_heads_ + kv_head].begin() + first);
}

void SideJudge::Give(int first_layer, Cache& cache) const {
  for (int layer = first_layer; layer < n_layers_; ++layer) {
    for (int h = 0; h < n_kv_heads_; ++h) {
      cache.SetWorth(layer, h, 0, worth_[size_t{1} * layer * n_kv_heads_ + h]);
    }
  }
}

}  // namespace pith
