// One text, compressed by several plans.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "pith/model.h"
#include "pith/plan.h"
#include "pith/session.h"

namespace pith {

// How the text meets the plans.
enum class Compression {
  // The text is read once with the full cache and judged by the scorers of all plans; every plan
  // evicts from a branch of its own. Judging by repetition does the same anyway; other scorers
  // evict with what attention over the full cache has left behind.
  kAfterReading,
  // The text is read anew for every plan, which evicts while it is read.
  kWhileReading,
};

// Of a text that was read and compressed, before anything else is read.
struct ReadingStats {
  int64_t tokens = 0;
  int64_t entries = 0;
  int64_t entries_full = 0;
  std::vector<std::vector<int64_t>> entries_per_head;  // [n_layers][n_kv_heads]
  uint64_t kv_bytes = 0;
  double read_s = 0;   // reading, judging by repetition left out; a shared reading counts for each
  double score_s = 0;  // judging by repetition, for all plans that share it
  std::string date;    // when it was measured, UTC: 2026-11-23T05:00:00Z
};

// Of what `session` has read for `plan`. `times` are those of the session that did the reading.
ReadingStats StatsOf(const Session& session, const Plan& plan, const TimeStats& times);

// A session that is yet to read for all plans, judged by the scorers of all and evicting nothing,
// so that Fork(plan) evicts for one of them. Throws what Session throws.
Session SharedReader(const Model& model, std::span<const Plan> plans, SessionOptions options);

// Calls `use` for one plan after the other with a session that has read `opening` (may be empty),
// which is never evicted, and `text`, compressed by plans[index]. A plan that keeps all is the full
// cache. With kAfterReading the plans may differ in scorer, calibration, seed, keep, budget, window
// and sinks only. Throws what Session throws.
void ForEachPlan(
    const Model& model, std::span<const Token> opening, std::span<const Token> text,
    std::span<const Plan> plans, Compression compression, const SessionOptions& options,
    const std::function<void(size_t index, Session& session, const ReadingStats& stats)>& use);

}  // namespace pith
