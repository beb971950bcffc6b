#include <vector>

#include "scorers/attention_paid.h"
#include "scorers/methods.h"

namespace pith {
namespace {

class Tova : public Scorer {
 public:
  Needs needs() const override { return {.whole_layers = true, .recent_queries = 1}; }

  // Heads that have lost an entry pay nothing for it.
  void JudgeLayer(const LayerEvidence& evidence,
                  std::span<const std::span<float>> worth) const override {
    const int32_t last = evidence.query_positions.back();
    std::vector<double> paid_at(static_cast<size_t>(last) + 1);
    std::vector<double> paid;
    for (size_t h = 0; h < evidence.heads.size(); ++h) {
      const Entries& entries = evidence.heads[h];
      const size_t head_dim = entries.keys.cols;
      paid.assign(worth[h].size(), 0.0);
      for (size_t g = 0; g < static_cast<size_t>(evidence.group); ++g) {
        const float* query =
            evidence.queries.row(evidence.queries.rows - 1) + (h * evidence.group + g) * head_dim;
        AddAttentionPaid(entries, {query, 1, head_dim, head_dim}, {&last, 1}, paid);
      }
      for (size_t i = 0; i < paid.size(); ++i) {
        if (entries.positions[i] < last) paid_at[entries.positions[i]] += paid[i];
      }
    }
    const auto n_heads = static_cast<double>(evidence.heads.size() * evidence.group);
    for (size_t h = 0; h < evidence.heads.size(); ++h) {
      for (size_t i = 0; i < worth[h].size(); ++i) {
        const int32_t position = evidence.heads[h].positions[i];
        worth[h][i] = position < last ? static_cast<float>(paid_at[position] / n_heads) : kUnjudged;
      }
    }
  }
};

}  // namespace

std::unique_ptr<Scorer> MakeTova(const Plan& /*plan*/, const ModelInfo& /*model*/) {
  return std::make_unique<Tova>();
}

}  // namespace pith
