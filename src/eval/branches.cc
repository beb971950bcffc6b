#include "eval/branches.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <ctime>

#include "scorers/scorer.h"

namespace pith {
namespace {

bool KeepsAll(const Plan& plan) { return plan.keep.kind == Keep::Kind::kAll; }

void ReadText(Session& session, std::span<const Token> opening, std::span<const Token> text) {
  ReadOptions pinned;
  pinned.pin = true;
  if (!opening.empty()) session.Read(opening, pinned);
  session.Read(text);
}

bool Repeats(const Plan& plan, const Model& model) {
  return !KeepsAll(plan) && MakeScorer(plan, model.info())->needs().repeat_pass;
}

bool SameJudge(const Plan& a, const Plan& b) {
  return a.scorer == b.scorer && a.calibration == b.calibration && a.seed == b.seed;
}

}  // namespace

ReadingStats StatsOf(const Session& session, const Plan& plan, const TimeStats& times) {
  const CacheStats cache = session.stats();
  ReadingStats stats;
  stats.tokens = cache.tokens;
  stats.entries = cache.entries;
  stats.entries_full = cache.entries_full;
  stats.entries_per_head.resize(static_cast<size_t>(session.model().info().n_layers));
  for (const HeadStats& head : cache.heads) {  // in order of layer, then head
    stats.entries_per_head[static_cast<size_t>(head.layer)].push_back(head.entries);
  }
  stats.kv_bytes = cache.kv_bytes;
  stats.read_s = times.read_s - times.score_s;
  stats.score_s = Repeats(plan, session.model()) ? times.score_s : 0;
  stats.date = fmt::format("{:%FT%TZ}", fmt::gmtime(std::time(nullptr)));
  return stats;
}

Session SharedReader(const Model& model, std::span<const Plan> plans, SessionOptions options) {
  std::vector<Plan> judges;
  for (const Plan& plan : plans) {
    const auto same = [&](const Plan& judge) { return SameJudge(judge, plan); };
    if (KeepsAll(plan) || std::any_of(judges.begin(), judges.end(), same)) continue;
    judges.push_back(plan);
    judges.back().key_codec = judges.back().value_codec = Plan().key_codec;
    judges.back().tiers.clear();
    judges.back().keep = Keep();
    judges.back().keep.kind = Keep::Kind::kFraction;
    judges.back().budget = "uniform";  // with which a whole fraction is everything, of any scorer
  }
  if (judges.empty()) return Session(model, Plan(), options);
  options.also_judge.assign(judges.begin() + 1, judges.end());
  return Session(model, judges.front(), options);
}

void ForEachPlan(
    const Model& model, std::span<const Token> opening, std::span<const Token> text,
    std::span<const Plan> plans, Compression compression, const SessionOptions& options,
    const std::function<void(size_t index, Session& session, const ReadingStats& stats)>& use) {
  if (compression == Compression::kWhileReading) {
    for (size_t i = 0; i < plans.size(); ++i) {
      Session session(model, plans[i], options);
      ReadText(session, opening, text);
      use(i, session, StatsOf(session, plans[i], session.times()));
    }
    return;
  }
  Session reader = SharedReader(model, plans, options);
  ReadText(reader, opening, text);
  for (size_t i = 0; i < plans.size(); ++i) {
    Session branch = reader.Fork(plans[i]);
    use(i, branch, StatsOf(branch, plans[i], reader.times()));
  }
}

}  // namespace pith
