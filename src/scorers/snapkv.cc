#include <algorithm>
#include <numeric>
#include <vector>

#include "scorers/attention_paid.h"
#include "scorers/methods.h"

namespace pith {
namespace {

// The observation window and the pooling kernel of kvpress, whose values ours are compared with.
constexpr int kObserving = 64;
constexpr int64_t kPooled = 5;

class SnapKv : public Scorer {
 public:
  Needs needs() const override { return {.whole_layers = true, .recent_queries = kObserving}; }

  void JudgeLayer(const LayerEvidence& evidence,
                  std::span<const std::span<float>> worth) const override {
    const int32_t begin =
        *std::min_element(evidence.query_positions.begin(), evidence.query_positions.end());
    for (size_t h = 0; h < evidence.heads.size(); ++h) {
      const Entries& entries = evidence.heads[h];
      const size_t head_dim = entries.keys.cols;
      std::vector<double> paid(worth[h].size());
      for (size_t g = 0; g < static_cast<size_t>(evidence.group); ++g) {
        const float* first = evidence.queries.data + (h * evidence.group + g) * head_dim;
        AddAttentionPaid(entries, {first, evidence.queries.rows, head_dim, evidence.queries.stride},
                         evidence.query_positions, paid);
      }
      Pool(entries, begin, paid,
           static_cast<double>(kPooled * evidence.group) *
               static_cast<double>(evidence.queries.rows),
           worth[h]);
    }
  }

 private:
  // Entries before `begin` share with their neighbours, as those that look on do not.
  static void Pool(const Entries& entries, int32_t begin, std::span<const double> paid,
                   double divisor, std::span<float> worth) {
    std::vector<size_t> order;
    for (size_t i = 0; i < worth.size(); ++i) {
      worth[i] = kUnjudged;
      if (entries.positions[i] < begin) order.push_back(i);
    }
    std::sort(order.begin(), order.end(),
              [&](size_t a, size_t b) { return entries.positions[a] < entries.positions[b]; });
    const auto n = static_cast<int64_t>(order.size());
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0;
      for (int64_t j = std::max<int64_t>(0, i - kPooled / 2); j <= std::min(n - 1, i + kPooled / 2);
           ++j) {
        sum += paid[order[static_cast<size_t>(j)]];
      }
      worth[order[static_cast<size_t>(i)]] = static_cast<float>(sum / divisor);
    }
  }
};

}  // namespace

std::unique_ptr<Scorer> MakeSnapKv(const Plan& /*plan*/, const ModelInfo& /*model*/) {
  return std::make_unique<SnapKv>();
}

}  // namespace pith
