#include "eval/codec_fidelity.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <memory>

#include "base/fail.h"
#include "base/for_each.h"
#include "engine/session_impl.h"
#include "eval/key_coding.h"

namespace pith {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Scores = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// A text that was read, and its last queries.
class LastQueries {
 public:
  LastQueries(const ModelInfo& info, int64_t n_tokens, int n_queries)
      : info_(info),
        first_(n_tokens - n_queries),
        n_queries_(n_queries),
        queries_(size_t{1} * info.n_layers * n_queries * info.n_heads * info.head_dim) {}

  // q [n, n_heads, head_dim]
  void Take(int layer, int32_t first, int n, const float* q) {
    const int64_t row = int64_t{info_.n_heads} * info_.head_dim;
    for (int i = 0; i < n; ++i) {
      const int64_t at = first + i - first_;
      if (at < 0 || at >= n_queries_) continue;
      std::copy_n(q + i * row, row, queries_.begin() + (int64_t{layer} * n_queries_ + at) * row);
    }
  }

  // Scores of a query head for keys [n_tokens, head_dim]. [n_queries, n_tokens]
  Scores Of(int layer, int query_head, const Rows& keys) const {
    const int64_t row = int64_t{info_.n_heads} * info_.head_dim;
    const Eigen::Map<const Rows, 0, Eigen::OuterStride<>> q(
        queries_.data() + int64_t{layer} * n_queries_ * row + query_head * info_.head_dim,
        n_queries_, info_.head_dim, Eigen::OuterStride<>(row));
    const Rows products = q * keys.transpose();
    return products.cast<double>() / std::sqrt(static_cast<double>(info_.head_dim));
  }

  // Entries that query i sees.
  int64_t Seen(int i) const { return first_ + i + 1; }

 private:
  const ModelInfo& info_;
  int64_t first_;
  int n_queries_;
  std::vector<float> queries_;  // [n_layers, n_queries, n_heads, head_dim]
};

struct HeadRows {
  HeadRows(const Cache& cache, int layer, int kv_head, int head_dim)
      : keys(cache.n_entries(layer, kv_head), head_dim), values(keys.rows(), head_dim) {
    for (Eigen::Index i = 0; i < keys.rows(); ++i) {
      cache.Read(layer, kv_head, i, keys.row(i).data(), values.row(i).data());
    }
  }

  static MatrixView<const float> View(const Rows& rows, int64_t n) {
    const auto cols = static_cast<size_t>(rows.cols());
    return {rows.data(), static_cast<size_t>(n), cols, cols};
  }

  Rows keys;
  Rows values;
};

std::span<double> RowOf(Scores& scores, int row, int64_t n) {
  return {scores.row(row).data(), static_cast<size_t>(n)};
}

void AddShare(KeyFidelity& to, const KeyFidelity& one, double share) {
  to.cosine += one.cosine * share;
  to.divergence += one.divergence * share;
  to.spearman += one.spearman * share;
  to.top5 += one.top5 * share;
}

// One head with all plans. [plans]
std::vector<KeyFidelity> CompareHead(const LastQueries& queries, const HeadRows& entries,
                                     const ModelInfo& info, int head, int n_queries,
                                     std::span<const Plan> plans,
                                     std::span<const std::unique_ptr<KeyCoding>> codings) {
  const int layer = head / info.n_kv_heads;
  const int group = info.n_heads / info.n_kv_heads;
  const int64_t n = entries.keys.rows();
  std::vector<KeyFidelity> means(plans.size());
  std::vector<Rows> coded;
  for (const auto& coding : codings) {
    const std::vector<float> back = coding->RoundTrip(head, HeadRows::View(entries.keys, n));
    coded.emplace_back(Eigen::Map<const Rows>(back.data(), n, entries.keys.cols()));
  }
  for (int g = 0; g < group; ++g) {
    const int query_head = head % info.n_kv_heads * group + g;
    Scores exact = queries.Of(layer, query_head, entries.keys);
    std::vector<ExactAttention> attention;
    for (int i = 0; i < n_queries; ++i) {
      const int64_t seen = queries.Seen(i);
      attention.emplace_back(RowOf(exact, i, seen), HeadRows::View(entries.values, seen));
    }
    for (size_t p = 0; p < plans.size(); ++p) {
      Scores scores = queries.Of(layer, query_head, coded[p]);
      for (int i = 0; i < n_queries; ++i) {
        const int64_t seen = queries.Seen(i);
        const int64_t n_sinks = std::min<int64_t>(plans[p].sinks, seen);
        const int64_t n_window = std::min<int64_t>(plans[p].window, seen);
        scores.row(i).head(n_sinks) = exact.row(i).head(n_sinks);
        scores.row(i).segment(seen - n_window, n_window) =
            exact.row(i).segment(seen - n_window, n_window);
        AddShare(means[p], attention[static_cast<size_t>(i)].Compare(RowOf(scores, i, seen)),
                 1.0 / (group * n_queries));
      }
    }
  }
  return means;
}

}  // namespace

std::vector<CodecOutcome> RunCodecs(const Model& model, const TextPiece& piece,
                                    std::span<const Plan> plans, int n_queries,
                                    const SessionOptions& options) {
  const ModelInfo& info = model.info();
  const auto n = static_cast<int64_t>(piece.opening.size() + piece.tokens.size());
  if (n_queries < 1 || n_queries > std::ssize(piece.tokens)) {
    Fail(ErrorCode::kInvalidArgument, "{} queries of {} tokens, expected from 1 to as many",
         n_queries, piece.tokens.size());
  }
  std::vector<std::unique_ptr<KeyCoding>> codings;
  for (const Plan& plan : plans) {
    codings.push_back(MakeKeyCoding(plan, info, &model.impl().key_frames()));
  }
  LastQueries queries(info, n, n_queries);
  Session session(model, {}, options);
  session.impl().SetQueryTap([&](int layer, int32_t first, int rows, const float* q) {
    queries.Take(layer, first, rows, q);
  });
  if (!piece.opening.empty()) session.Read(piece.opening);
  session.Read(piece.tokens);

  const int n_heads = info.n_layers * info.n_kv_heads;
  std::vector<std::vector<KeyFidelity>> of_heads(static_cast<size_t>(n_heads));
  ForEachIndex(n_heads, std::max(1, options.n_threads), [&](int head) {
    const HeadRows entries(session.impl().cache, head / info.n_kv_heads, head % info.n_kv_heads,
                           info.head_dim);
    of_heads[static_cast<size_t>(head)] =
        CompareHead(queries, entries, info, head, n_queries, plans, codings);
  });
  std::vector<CodecOutcome> outcomes;
  for (size_t p = 0; p < plans.size(); ++p) {
    CodecOutcome& outcome = outcomes.emplace_back();
    static_cast<ReadingStats&>(outcome) = StatsOf(session, session.plan(), session.times());
    outcome.key_bytes = codings[p]->key_bytes();
    outcome.document = piece.document;
    outcome.begin = piece.begin;
    outcome.per_head.resize(static_cast<size_t>(info.n_layers));
    for (size_t head = 0; head < of_heads.size(); ++head) {
      outcome.per_head[head / static_cast<size_t>(info.n_kv_heads)].push_back(of_heads[head][p]);
    }
  }
  return outcomes;
}

}  // namespace pith
