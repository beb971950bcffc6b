#include "eval/spearman.h"

#include <algorithm>

#include "base/fail.h"
#include "base/for_each.h"
#include "engine/received.h"
#include "engine/session_impl.h"
#include "eval/interval.h"
#include "eval/rank_correlation.h"

namespace pith {
namespace {

// What every head's entries receive. [n_layers * n_kv_heads][n - distance]
std::vector<std::vector<double>> ReceivedByAll(const ReceivedAttention& watched, Session& session,
                                               int64_t distance, int n_threads) {
  const ModelInfo& info = session.model().info();
  const int n_heads = info.n_layers * info.n_kv_heads;
  std::vector<std::vector<double>> received(static_cast<size_t>(n_heads));
  ForEachIndex(n_heads, n_threads, [&](int head) {
    received[static_cast<size_t>(head)] = watched.Mean(
        head / info.n_kv_heads, head % info.n_kv_heads, session.impl().cache, distance);
  });
  return received;
}

}  // namespace

double SpearmanOutcome::mean() const {
  std::vector<double> all;
  for (const auto& layer : per_head) all.insert(all.end(), layer.begin(), layer.end());
  return Mean(all);
}

std::vector<SpearmanOutcome> RunSpearman(const Model& model, const TextPiece& piece,
                                         std::span<const Plan> plans, int64_t distance,
                                         const SessionOptions& options) {
  const ModelInfo& info = model.info();
  const auto n_opening = static_cast<int64_t>(piece.opening.size());
  const int64_t n = n_opening + static_cast<int64_t>(piece.tokens.size());
  if (distance < 0 || n_opening + distance >= n) {
    Fail(ErrorCode::kInvalidArgument,
         "queries {} or more tokens later see none of {}, expected a smaller distance", distance,
         n);
  }
  Session reader = SharedReader(model, plans, options);
  ReceivedAttention watched(info, static_cast<int>(n));
  reader.impl().SetQueryTap([&](int layer, int32_t first, int rows, const float* q) {
    watched.TakeQueries(layer, first, rows, q);
  });
  ReadOptions pinned;
  pinned.pin = true;
  if (n_opening > 0) reader.Read(piece.opening, pinned);
  reader.Read(piece.tokens);
  const std::vector<std::vector<double>> received =
      ReceivedByAll(watched, reader, distance, std::max(1, options.n_threads));

  std::vector<SpearmanOutcome> outcomes;
  for (const Plan& plan : plans) {
    Session branch = reader.Fork(plan);
    SpearmanOutcome& outcome = outcomes.emplace_back();
    static_cast<ReadingStats&>(outcome) = StatsOf(branch, plan, reader.times());
    outcome.document = piece.document;
    outcome.begin = piece.begin;
    for (int layer = 0; layer < info.n_layers; ++layer) {
      std::vector<double>& heads = outcome.per_head.emplace_back();
      for (int h = 0; h < info.n_kv_heads; ++h) {
        const auto& all = received[static_cast<size_t>(layer * info.n_kv_heads + h)];
        const auto ranked = std::span(all).subspan(static_cast<size_t>(n_opening));
        const auto worth = branch.impl().cache.Entries(layer, h).worth.subspan(
            static_cast<size_t>(n_opening), ranked.size());
        heads.push_back(Spearman(std::vector<double>(worth.begin(), worth.end()), ranked));
      }
    }
  }
  return outcomes;
}

}  // namespace pith
