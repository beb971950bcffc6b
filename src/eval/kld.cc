#include "eval/kld.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/fail.h"
#include "eval/log_probs.h"

namespace pith {
namespace {

size_t Top(std::span<const double> values) {
  return static_cast<size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

std::span<const Token> ContextOf(const TextPiece& piece, int n_next) {
  return std::span(piece.tokens).first(piece.tokens.size() - static_cast<size_t>(n_next) - 1);
}

bool IsFull(const Plan& plan) { return plan.keep.kind == Keep::Kind::kAll && !plan.has_codes(); }

// Has `session`, which has read the context, read what follows, and compares it with the full
// cache, whose own logits `full` may be as they come.
KldOutcome Compare(Session& session, const TextPiece& piece, int n_next, const ReadingStats& stats,
                   const FullPredictions& full) {
  const std::span<const Token> next = std::span(piece.tokens).last(static_cast<size_t>(n_next) + 1);
  const int64_t begin = session.n_read();
  KldOutcome outcome;
  static_cast<ReadingStats&>(outcome) = stats;
  outcome.document = piece.document;
  outcome.begin = piece.begin;
  const auto n_vocab = static_cast<size_t>(session.model().info().n_vocab);
  std::vector<double> wanted(n_vocab);
  std::vector<double> found(n_vocab);
  ReadOptions pinned;
  pinned.pin = true;
  pinned.on_logits = [&](int64_t position, std::span<const float> logits) {
    const auto row = static_cast<size_t>(position - begin);
    LogSoftmax(logits, found);
    full.log_probs(row, wanted);
    outcome.divergence.push_back(Divergence(wanted, found));
    outcome.nll.push_back(-found[static_cast<size_t>(next[row + 1])]);
    outcome.same_top.push_back(Top(wanted) == Top(found) ? 1 : 0);
    if (!std::isfinite(outcome.divergence.back() + outcome.nll.back())) {
      Fail(ErrorCode::kFormat, "the model's logits after token {} are not finite numbers",
           position);
    }
  };
  session.Read(next.first(static_cast<size_t>(n_next)), pinned);
  return outcome;
}

// The same of the full cache, whose logits are kept as they are, half of what their logs take.
FullPredictions TakeFull(Session& session, const TextPiece& piece, int n_next,
                         const ReadingStats& stats) {
  const auto n_vocab = static_cast<size_t>(session.model().info().n_vocab);
  const auto next = std::span(piece.tokens).last(static_cast<size_t>(n_next) + 1);
  auto rows = std::make_shared<std::vector<float>>();
  rows->reserve(static_cast<size_t>(n_next) * n_vocab);
  FullPredictions full;
  full.log_probs = [rows, n_vocab](size_t row, std::span<double> log_probs) {
    LogSoftmax(std::span(*rows).subspan(row * n_vocab, n_vocab), log_probs);
  };
  static_cast<ReadingStats&>(full.outcome) = stats;
  full.outcome.document = piece.document;
  full.outcome.begin = piece.begin;
  ReadOptions pinned;
  pinned.pin = true;
  pinned.on_logits = [&](int64_t, std::span<const float> logits) {
    rows->insert(rows->end(), logits.begin(), logits.end());
    full.outcome.nll.push_back(NegativeLogLikelihood(logits, next[full.outcome.nll.size() + 1]));
  };
  session.Read(next.first(static_cast<size_t>(n_next)), pinned);
  full.outcome.divergence.assign(static_cast<size_t>(n_next), 0.0);
  full.outcome.same_top.assign(static_cast<size_t>(n_next), 1);
  return full;
}

}  // namespace

FullPredictions PredictFull(const Model& model, const TextPiece& piece, int n_next,
                            const SessionOptions& options) {
  FullPredictions full;
  const Plan plan;
  ForEachPlan(model, piece.opening, ContextOf(piece, n_next), {&plan, 1},
              Compression::kWhileReading, options,
              [&](size_t, Session& session, const ReadingStats& stats) {
                full = TakeFull(session, piece, n_next, stats);
              });
  return full;
}

std::vector<KldOutcome> RunKld(const Model& model, const TextPiece& piece, int n_next,
                               std::span<const Plan> plans, Compression compression,
                               const SessionOptions& options, const FullPredictions* known) {
  FullPredictions full;
  std::vector<Plan> tried;
  if (known == nullptr) {
    tried.emplace_back();  // the full cache first
  } else {
    full = *known;
  }
  std::vector<KldOutcome> outcomes(plans.size());
  std::vector<size_t> tried_for(tried.size());  // which outcome is whose
  for (size_t i = 0; i < plans.size(); ++i) {
    if (IsFull(plans[i])) continue;
    tried.push_back(plans[i]);
    tried_for.push_back(i);
  }
  if (!tried.empty()) {
    ForEachPlan(model, piece.opening, ContextOf(piece, n_next), tried, compression, options,
                [&](size_t index, Session& session, const ReadingStats& stats) {
                  if (known == nullptr && index == 0) {
                    full = TakeFull(session, piece, n_next, stats);
                  } else {
                    outcomes[tried_for[index]] = Compare(session, piece, n_next, stats, full);
                  }
                });
  }
  for (size_t i = 0; i < plans.size(); ++i) {
    if (IsFull(plans[i])) outcomes[i] = full.outcome;
  }
  return outcomes;
}

KldSummary SummariseKld(std::span<const KldOutcome> full, std::span<const KldOutcome> outcomes,
                        uint64_t seed) {
  if (outcomes.empty() || full.size() != outcomes.size()) {
    Fail(ErrorCode::kInvalidArgument,
         "{} pieces with the full cache and {} compressed, expected "
         "the same number, at least 1",
         full.size(), outcomes.size());
  }
  std::vector<double> divergences, means, tops, nlls, full_nlls;
  for (size_t i = 0; i < outcomes.size(); ++i) {
    const KldOutcome& outcome = outcomes[i];
    divergences.insert(divergences.end(), outcome.divergence.begin(), outcome.divergence.end());
    means.push_back(Mean(outcome.divergence));
    tops.push_back(Mean(std::vector<double>(outcome.same_top.begin(), outcome.same_top.end())));
    nlls.push_back(Mean(outcome.nll));
    full_nlls.push_back(Mean(full[i].nll));
  }
  KldSummary sum;
  sum.mean = Mean(means);
  sum.interval = BootstrapMean(means, seed);
  sum.median = Quantile(divergences, 0.5);
  sum.p99 = Quantile(divergences, 0.99);
  sum.p999 = Quantile(divergences, 0.999);
  sum.same_top = Mean(tops);
  sum.same_top_interval = BootstrapMean(tops, seed);
  sum.nll = ComparePaired(full_nlls, nlls, seed);
  return sum;
}

}  // namespace pith
