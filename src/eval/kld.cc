#include "eval/kld.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/fail.h"
#include "eval/seeded_random.h"

namespace pith {
namespace {

double Mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

size_t Top(std::span<const double> values) {
  return static_cast<size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

}  // namespace

void LogSoftmax(std::span<const float> logits, std::span<double> log_probs) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - top);
  const double log_sum = top + std::log(sum);
  for (size_t i = 0; i < logits.size(); ++i) log_probs[i] = logits[i] - log_sum;
}

double Divergence(std::span<const double> log_p, std::span<const double> log_q) {
  double sum = 0;
  for (size_t i = 0; i < log_p.size(); ++i) {
    const double p = std::exp(log_p[i]);
    if (p > 0) sum += p * (log_p[i] - log_q[i]);
  }
  return sum < 0 ? 0 : sum;  // NaN stays
}

KldTask::KldTask(const Tokenizer& tokenizer, std::span<const std::string> documents, int n_next,
                 uint64_t seed)
    : has_bos_(tokenizer.add_bos() && tokenizer.bos() >= 0),
      bos_(tokenizer.bos()),
      n_next_(n_next),
      seed_(seed) {
  if (n_next < 1) {
    Fail(ErrorCode::kInvalidArgument, "{} predictions to compare, expected at least 1", n_next);
  }
  for (const std::string& document : documents) documents_.push_back(tokenizer.Encode(document));
}

int64_t KldTask::longest() const {
  size_t tokens = 0;
  for (const auto& document : documents_) tokens = std::max(tokens, document.size());
  return static_cast<int64_t>(tokens);
}

KldPiece KldTask::Make(int index, int64_t length) const {
  const int64_t n_context = length - (has_bos_ ? 1 : 0);
  const int64_t n_tokens = n_context + n_next_ + 1;
  // Places in a document of so many tokens where a piece may begin.
  const auto places = [&](const std::vector<Token>& document) {
    return std::max<int64_t>(0, static_cast<int64_t>(document.size()) - n_tokens + 1);
  };
  int64_t n_places = 0;
  for (const auto& document : documents_) n_places += places(document);
  if (n_context < 1 || n_places == 0) {
    Fail(ErrorCode::kInvalidArgument,
         "no text holds the {} tokens of a piece, the longest has {}; expected longer texts or a "
         "length of 2 or more that is shorter",
         n_tokens, longest());
  }
  constexpr double kGoldenRatio = 0.6180339887498949;
  const double turns = SeededRandom(seed_).Unit() + index * kGoldenRatio;
  auto place = static_cast<int64_t>((turns - std::floor(turns)) * static_cast<double>(n_places));
  KldPiece piece;
  while (place >= places(documents_[static_cast<size_t>(piece.document)])) {
    place -= places(documents_[static_cast<size_t>(piece.document++)]);
  }
  const std::span<const Token> tokens(documents_[static_cast<size_t>(piece.document)]);
  piece.begin = place;
  if (has_bos_) piece.opening.push_back(bos_);
  const auto context = tokens.subspan(static_cast<size_t>(place), static_cast<size_t>(n_context));
  const auto next =
      tokens.subspan(static_cast<size_t>(place + n_context), static_cast<size_t>(n_next_) + 1);
  piece.context.assign(context.begin(), context.end());
  piece.next.assign(next.begin(), next.end());
  return piece;
}

std::vector<KldOutcome> RunKld(const Model& model, const KldPiece& piece,
                               std::span<const Plan> plans, Compression compression,
                               const SessionOptions& options) {
  const auto n_vocab = static_cast<size_t>(model.info().n_vocab);
  const size_t n_next = piece.next.size() - 1;
  std::vector<Plan> tried = {Plan()};  // the full cache first
  std::vector<size_t> tried_as;        // of each of `plans`
  for (const Plan& plan : plans) {
    const bool full = plan.keep.kind == Keep::Kind::kAll;
    tried_as.push_back(full ? 0 : tried.size());
    if (!full) tried.push_back(plan);
  }
  std::vector<float> full_logits(n_next * n_vocab);  // as they are, half of what their logs take
  std::vector<double> full(n_vocab);
  std::vector<double> log_probs(n_vocab);
  std::vector<KldOutcome> found(tried.size());
  const auto use = [&](size_t index, Session& session, const ReadingStats& stats) {
    const int64_t begin = session.n_read();
    KldOutcome& outcome = found[index];
    static_cast<ReadingStats&>(outcome) = stats;
    outcome.document = piece.document;
    outcome.begin = piece.begin;
    ReadOptions pinned;
    pinned.pin = true;
    pinned.on_logits = [&](int64_t position, std::span<const float> logits) {
      const auto row = static_cast<size_t>(position - begin);
      const std::span<float> kept = std::span(full_logits).subspan(row * n_vocab, n_vocab);
      if (index == 0) std::copy(logits.begin(), logits.end(), kept.begin());
      LogSoftmax(kept, full);
      LogSoftmax(logits, log_probs);
      outcome.divergence.push_back(Divergence(full, log_probs));
      outcome.nll.push_back(-log_probs[static_cast<size_t>(piece.next[row + 1])]);
      outcome.same_top.push_back(Top(full) == Top(log_probs) ? 1 : 0);
      if (!std::isfinite(outcome.divergence.back() + outcome.nll.back())) {
        Fail(ErrorCode::kFormat, "the model's logits after token {} are not finite numbers",
             position);
      }
    };
    session.Read(std::span(piece.next).first(n_next), pinned);
  };
  ForEachPlan(model, piece.opening, piece.context, tried, compression, options, use);
  std::vector<KldOutcome> outcomes;
  for (size_t index : tried_as) outcomes.push_back(found[index]);
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
  std::vector<double> divergences, means, tops, nlls, increases;
  for (size_t i = 0; i < outcomes.size(); ++i) {
    const KldOutcome& outcome = outcomes[i];
    divergences.insert(divergences.end(), outcome.divergence.begin(), outcome.divergence.end());
    means.push_back(Mean(outcome.divergence));
    tops.push_back(Mean(std::vector<double>(outcome.same_top.begin(), outcome.same_top.end())));
    nlls.push_back(Mean(outcome.nll));
    increases.push_back(nlls.back() - Mean(full[i].nll));
  }
  KldSummary sum;
  sum.mean = Mean(means);
  sum.interval = BootstrapMean(means, seed);
  sum.median = Quantile(divergences, 0.5);
  sum.p99 = Quantile(divergences, 0.99);
  sum.p999 = Quantile(divergences, 0.999);
  sum.same_top = Mean(tops);
  sum.same_top_interval = BootstrapMean(tops, seed);
  sum.nll = Mean(nlls);
  sum.nll_increase = Mean(increases);
  sum.full_nll = sum.nll - sum.nll_increase;
  sum.nll_increase_interval = BootstrapMean(increases, seed);
  return sum;
}

}  // namespace pith
