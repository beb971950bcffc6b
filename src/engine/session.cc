#include "pith/session.h"

#include <algorithm>
#include <string>

#include "base/fail.h"
#include "engine/plan_calibration.h"
#include "engine/session_impl.h"

namespace pith {
namespace {

// Whether `parts` are the same in the calibrations of two plans.
bool SameParts(std::span<const CalibrationPart> parts, const Plan& a, const Plan& b) {
  if (parts.empty() || a.calibration == b.calibration) return true;
  return a.calibration && b.calibration &&
         CalibrationDigest(parts, *a.calibration) == CalibrationDigest(parts, *b.calibration);
}

std::string Differ(std::string_view what, const auto& of_session, const auto& of_fork) {
  return fmt::format("the {} '{}', the session has '{}'", what, of_fork, of_session);
}

// "q8/q8, pq8x16/q4", of what has left the window.
std::string CodecNames(const Plan& plan) {
  std::string names;
  const std::vector<Tier> tiers = plan.StoredTiers();
  for (const Tier& tier : std::span(tiers).subspan(tiers.size() > 1 ? 1 : 0)) {
    names += fmt::format("{}{}/{}", names.empty() ? "" : ", ", tier.key_codec, tier.value_codec);
  }
  return names;
}

// What two plans differ in that a fork must share with its session where that has codes; empty if
// nothing.
std::string CodecDifference(const Plan& a, const Plan& b) {
  if (!a.has_codes()) return "";
  const std::string of_a = CodecNames(a), of_b = CodecNames(b);
  if (of_a != of_b) return Differ("codecs", of_a, of_b);
  return SameParts(PartsOfCodecs(a), a, b) ? "" : "other codebooks";
}

// The same of what judges.
std::string ScorerDifference(const Plan& a, const Plan& b) {
  if (b.keep.kind == Keep::Kind::kAll) return "";  // nothing else matters to it
  if (a.scorer != b.scorer) return Differ("scorer", a.scorer, b.scorer);
  if (a.sinks != b.sinks) return Differ("number of sinks", a.sinks, b.sinks);
  if (a.skip_layers != b.skip_layers) return Differ("skip_layers", a.skip_layers, b.skip_layers);
  if (a.scorer == "random" && a.seed != b.seed) return Differ("seed", a.seed, b.seed);
  return SameParts(PartsOfScorer(a), a, b) ? "" : "another calibration";
}

// The session's plan, had it been given the scorer that judged along.
Plan WithScorerOf(Plan plan, const Plan& judge) {
  plan.scorer = judge.scorer;
  plan.calibration = judge.calibration;
  plan.seed = judge.seed;
  return plan;
}

void CheckForkPlan(const Session::Impl& from, const Plan& plan) {
  if (from.n_read == 0) return;
  if (from.plan.keep.kind == Keep::Kind::kAll && plan.keep.kind != Keep::Kind::kAll) {
    Fail(ErrorCode::kInvalidArgument,
         "the fork is to keep {}, but the session keeps everything and has judged nothing",
         plan.keep.ToString());
  }
  std::string difference = ScorerDifference(from.plan, plan);
  for (const SideJudge& side : from.side_judges) {
    if (difference.empty()) break;
    difference = ScorerDifference(WithScorerOf(from.plan, side.plan()), plan);
  }
  if (difference.empty()) difference = CodecDifference(from.plan, plan);
  if (!difference.empty()) {
    Fail(ErrorCode::kInvalidArgument,
         "the plan of a fork has {}; only keep, budget, window, memory limits and the codecs of "
         "what is exact may be others",
         difference);
  }
}

// Its plan must be one that CheckForkPlan allows.
std::unique_ptr<Session::Impl> ForkImpl(Session::Impl& from, const Plan& plan) {
  const SessionOptions options = {from.n_batch, from.n_threads, from.n_ctx};
  const bool same_codecs = from.plan.has_codes() && CodecDifference(from.plan, plan).empty();
  auto fork = same_codecs
                  ? std::make_unique<Session::Impl>(from.model, plan, options, from.cache.codecs())
                  : std::make_unique<Session::Impl>(from.model, plan, options);
  fork->tokens = from.tokens;
  fork->logits = from.logits;
  fork->cache = from.cache.Fork(fork->cache.codecs());
  fork->cache.SetLimit(plan.kv_limit);
  fork->n_read = from.n_read;
  fork->n_judged = from.n_judged;
  fork->text_begin = from.text_begin;
  fork->n_settled = from.n_settled;
  fork->n_stored = from.n_stored;
  if (from.n_read > 0 && fork->queries && from.queries) fork->queries->Take(*from.queries);
  if (fork->steering && from.steering && plan.scorer == from.plan.scorer) {
    fork->steering->SetKnowledge(from.steering->knowledge());
  }
  return fork;
}

}  // namespace

Session::Session(const Model& model, const Plan& plan, const SessionOptions& options)
    : impl_(std::make_unique<Impl>(model, plan, options)) {}
Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

void Session::Read(std::span<const Token> tokens, const ReadOptions& options) {
  impl_->Read(tokens, options);
}

std::span<const float> Session::Next(Token token) {
  impl_->Next(token);
  return impl_->logits;
}

Session Session::Fork() {
  auto fork = ForkImpl(*impl_, impl_->plan);
  fork->side_judges = impl_->side_judges;
  fork->queries = impl_->queries;
  return Session(std::move(fork));
}

Session Session::Fork(const Plan& plan) {
  CheckForkPlan(*impl_, plan);
  auto fork = ForkImpl(*impl_, plan);
  if (!ScorerDifference(impl_->plan, plan).empty()) {
    for (const SideJudge& side : impl_->side_judges) {
      if (!ScorerDifference(WithScorerOf(impl_->plan, side.plan()), plan).empty()) continue;
      side.Give(plan.skip_layers, fork->cache);
      break;
    }
  }
  fork->SettleNow();
  return Session(std::move(fork));
}

void Session::DropTail(int64_t n_tokens) {
  Impl& impl = *impl_;
  if (n_tokens < 0 || n_tokens > impl.n_read) {
    Fail(ErrorCode::kInvalidArgument, "cannot keep the first {} tokens, {} were read", n_tokens,
         impl.n_read);
  }
  if (n_tokens == impl.n_read) return;
  impl.cache.DropFrom(static_cast<int32_t>(n_tokens));
  impl.cache.Trim();
  impl.n_read = n_tokens;
  impl.tokens.resize(static_cast<size_t>(n_tokens));
  impl.n_judged = std::min(impl.n_judged, n_tokens);
  impl.text_begin = std::min(impl.text_begin, n_tokens);
  impl.n_settled = std::min(impl.n_settled, n_tokens);
  impl.n_stored = std::min(impl.n_stored, n_tokens);
  impl.n_whole_judged = -1;
  for (SideJudge& side : impl.side_judges) side.Resize(n_tokens);
  if (impl.queries) impl.queries->DropFrom(n_tokens);
  impl.logits.clear();
}

std::span<const float> Session::logits() const { return impl_->logits; }

void Session::Cancel() noexcept { impl_->cancelled = true; }

int64_t Session::n_read() const { return impl_->n_read; }
int Session::n_ctx() const { return impl_->n_ctx; }
const Model& Session::model() const { return impl_->model; }
const Plan& Session::plan() const { return impl_->plan; }
std::span<const Token> Session::tokens() const { return impl_->tokens; }
TimeStats Session::times() const { return impl_->times; }

CacheStats Session::stats() const {
  const Cache& cache = impl_->cache;
  const CacheShape& shape = cache.shape();
  const int64_t n_heads = int64_t{shape.n_layers} * shape.n_kv_heads;
  CacheStats stats;
  stats.tokens = impl_->n_read;
  stats.entries = cache.total_entries();
  stats.entries_full = impl_->n_read * n_heads;
  stats.kv_bytes = cache.allocated_bytes();
  stats.kv_bytes_peak = cache.peak_bytes();
  stats.kv_bytes_shared = cache.shared_bytes();
  stats.kv_bytes_full =
      static_cast<uint64_t>(stats.entries_full) * shape.head_dim * 2 * sizeof(uint16_t);
  for (const TierCodecs& codecs : cache.codecs()) {
    TierStats& tier = stats.tiers.emplace_back();
    tier.key_codec = codecs.keys->name();
    tier.value_codec = codecs.values->name();
    tier.codebook_bytes = codecs.keys->CodebookBytes() + codecs.values->CodebookBytes();
  }
  for (int layer = 0; layer < shape.n_layers; ++layer) {
    for (int h = 0; h < shape.n_kv_heads; ++h) {
      stats.heads.push_back({layer, h, cache.n_entries(layer, h)});
      for (int t = 0; t < cache.n_tiers(); ++t) {
        const int64_t n = cache.n_entries(layer, h, t);
        stats.tiers[t].entries += n;
        stats.tiers[t].page_bytes += (n + kPageEntries - 1) / kPageEntries * cache.page_bytes(t);
      }
    }
  }
  return stats;
}

}  // namespace pith
