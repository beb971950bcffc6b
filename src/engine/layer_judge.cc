#include "engine/layer_judge.h"

#include <limits>
#include <span>
#include <vector>

#include "calibrate/kvzap_layers.h"
#include "model/model_impl.h"

namespace pith {
namespace {

// One KV head, decoded.
struct Decoded {
  std::vector<float> keys;    // [n, head_dim]
  std::vector<float> values;  // [n, head_dim]
  std::vector<float> worth;   // [n]
};

}  // namespace

void JudgeLayers(const Scorer& scorer, const Model& model, const Plan& plan,
                 const QueryMemory* queries, int64_t n_read, int n_threads, Cache& cache) {
  const ModelInfo& info = model.info();
  const Needs needs = scorer.needs();
  const auto head_dim = static_cast<size_t>(info.head_dim);
  const size_t row_size = head_dim * info.n_heads;
  LayerEvidence common;
  common.group = info.n_heads / info.n_kv_heads;
  common.n_sinks = plan.sinks;
  common.window_begin = static_cast<int32_t>(n_read - plan.window);
  if (needs.future_positions > 0) {
    common.future = model.impl().rope->Mean(n_read, needs.future_positions);
  }
  std::vector<int32_t> positions;
  if (queries) positions = queries->RecentPositions(needs.recent_queries);
  common.query_positions = positions;

  ForEachLayer(info.n_layers - plan.skip_layers, n_threads, {}, [&](int index) {
    LayerEvidence evidence = common;
    evidence.layer = plan.skip_layers + index;
    std::vector<Decoded> decoded(static_cast<size_t>(info.n_kv_heads));
    std::vector<Entries> heads;
    std::vector<std::span<float>> worth;
    for (int h = 0; h < info.n_kv_heads; ++h) {
      const HeadEntries held = cache.Entries(evidence.layer, h);
      const size_t n = held.positions.size();
      Decoded& head = decoded[static_cast<size_t>(h)];
      head.keys.resize(n * head_dim);
      head.values.resize(n * head_dim);
      head.worth.resize(n);
      for (size_t i = 0; i < n; ++i) {
        cache.Read(evidence.layer, h, static_cast<int64_t>(i), head.keys.data() + i * head_dim,
                   head.values.data() + i * head_dim);
      }
      heads.push_back({evidence.layer,
                       h,
                       held.positions,
                       {head.keys.data(), n, head_dim, head_dim},
                       {head.values.data(), n, head_dim, head_dim}});
      worth.emplace_back(head.worth);
    }
    evidence.heads = heads;
    std::vector<float> asked;
    for (const int32_t position : positions) {
      const std::span<const float> row = queries->Recent(evidence.layer, position);
      asked.insert(asked.end(), row.begin(), row.end());
    }
    evidence.queries = {asked.data(), positions.size(), row_size, row_size};
    if (needs.query_moments) evidence.moments = queries->Moments(evidence.layer);
    scorer.JudgeLayer(evidence, worth);
    for (int h = 0; h < info.n_kv_heads; ++h) {
      const std::span<const float> before = cache.Entries(evidence.layer, h).worth;
      std::span<float> found = worth[static_cast<size_t>(h)];
      for (size_t i = 0; i < found.size(); ++i) {
        if (before[i] == std::numeric_limits<float>::infinity()) found[i] = before[i];
      }
      cache.SetWorth(evidence.layer, h, 0, found);
    }
  });
}

}  // namespace pith
