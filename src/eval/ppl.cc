#include "eval/ppl.h"

#include <algorithm>

#include "base/fail.h"
#include "eval/interval.h"
#include "eval/log_probs.h"

namespace pith {
namespace {

// Tokens that fill the cache before anything can be evicted, which may be read at once.
int64_t UntouchedTokens(const Plan& plan, int64_t n_tokens) {
  if (plan.keep.kind == Keep::Kind::kAll) return n_tokens;
  return plan.keep.kind == Keep::Kind::kEntries ? std::min(plan.keep.entries, n_tokens) : 0;
}

}  // namespace

std::vector<PplOutcome> RunPpl(const Model& model, const TextPiece& piece,
                               std::span<const Plan> plans, int64_t from, Stride stride,
                               const SessionOptions& options) {
  const std::span<const Token> tokens = piece.tokens;
  const auto n_tokens = static_cast<int64_t>(tokens.size());
  if (from < 1 || from >= n_tokens) {
    Fail(ErrorCode::kInvalidArgument, "predictions count from token {} on, expected 1 to {}", from,
         n_tokens - 1);
  }
  std::vector<PplOutcome> outcomes;
  for (const Plan& plan : plans) {
    Session session(model, plan, options);
    ReadOptions pinned;
    pinned.pin = true;
    if (!piece.opening.empty()) session.Read(piece.opening, pinned);
    std::vector<double> nll;  // of token i + 1 at i
    const auto foretell = [&](std::span<const float> logits) {
      const size_t next = nll.size() + 1;
      if (next < tokens.size()) nll.push_back(NegativeLogLikelihood(logits, tokens[next]));
    };
    ReadOptions each;
    each.on_logits = [&](int64_t, std::span<const float> logits) { foretell(logits); };
    const int64_t at_once = stride == Stride::kBatch ? n_tokens : UntouchedTokens(plan, n_tokens);
    session.Read(tokens.first(static_cast<size_t>(at_once)), each);
    for (const Token& token : tokens.subspan(static_cast<size_t>(at_once))) {
      session.Read({&token, 1});
      foretell(session.logits());
    }
    PplOutcome& outcome = outcomes.emplace_back();
    static_cast<ReadingStats&>(outcome) = StatsOf(session, plan, session.times());
    outcome.document = piece.document;
    outcome.begin = piece.begin;
    outcome.nll = Mean(std::span(nll).subspan(static_cast<size_t>(from) - 1));
    for (int64_t begin = 0; begin < n_tokens; begin += kPositionBin) {
      const int64_t first = std::max<int64_t>(begin - 1, 0);
      const int64_t end = std::min(begin + kPositionBin, n_tokens) - 1;
      outcome.by_position.push_back(Mean(
          std::span(nll).subspan(static_cast<size_t>(first), static_cast<size_t>(end - first))));
    }
  }
  return outcomes;
}

}  // namespace pith
