// What to keep of the KV cache.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pith/calibration.h"

namespace pith {

// How much of the cache stays: everything, a fraction of what was read ("25%"), a number of entries
// per head, on average over the heads that share a budget ("512", sinks and window included), bytes
// in all ("64MiB"), or what a scorer gives at least a threshold ("tau=-4").
struct Keep {
  enum class Kind { kAll, kFraction, kEntries, kBytes, kThreshold };
  Kind kind = Kind::kAll;
  double fraction = 1.0;  // (0, 1]; 1 drops nothing but, unlike kAll, has entries judged
  int64_t entries = 0;
  uint64_t bytes = 0;
  double tau = 0;  // finite

  // Throws Error(kInvalidArgument) naming the forms above.
  static Keep Parse(std::string_view text);
  std::string ToString() const;
};

// "64MiB", "1.5GiB", "800KB", "4096". Throws Error(kInvalidArgument).
uint64_t ParseBytes(std::string_view text);

// How a share of what was read is stored once it has left the window.
struct Tier {
  std::string key_codec = "f16";  // as Plan::key_codec and value_codec
  std::string value_codec = "f16";
  double share = 0;  // (0, 1]
};

// "f16:10%,q8:15%,pq8x16/q4:50%": KEY/VALUE:SHARE, the best first. One name stands for both, but
// values beside pq and lr keys are q4. Throws Error(kInvalidArgument) for what is not of this form,
// and for shares of more than 100% in all.
std::vector<Tier> ParseTiers(std::string_view text);
std::string TiersToString(std::span<const Tier> tiers);
// The fraction that they make together; 1 drops nothing.
Keep KeepOf(std::span<const Tier> tiers);

// scorer + budget + codecs. The default keeps everything.
struct Plan {
  Keep keep;
  std::string scorer = "qfilter";  // see ScorerNames()
  // Who shares what stays, see BudgetNames(). "auto": "threshold" for a tau; otherwise "global"
  // where the scorer's worths can be compared between heads, "uniform" where they cannot. With a
  // fraction, "threshold" looks for the tau that gives it as the text goes by, starting from
  // WorthQuantiles: the cache grows with what is read instead of filling up first, and at the end
  // of a Read is never above the fraction.
  std::string budget = "auto";
  // Part of an even share that every head keeps whatever the others need, [0, 1]; negative: 0.2 for
  // "adaptive" (AdaKV, arXiv 2407.11550, section 3.3), 0 for the others.
  double head_floor = -1;
  // Scorers that repeat what was read (KVzip): judge and evict after every 2,048 tokens instead of
  // at the end of a Read. Memory stays within the budget and two such chunks. Also done, unasked,
  // where kv_limit is too small for the whole.
  bool chunkwise = false;
  // How keys and values are stored once they have left the window, in all layers; sinks, window and
  // what is pinned stay f16. "f16", "q8", "q4"; keys also "pq8xM" and "pq4xM", codes of a product
  // quantiser with M subspaces (LOOKAT, arXiv 2601.10155), and "lrR" and "lrRq4", coefficients in
  // q8 or q4 on R directions of a head (after arXiv 2508.16929), of which the calibration has the
  // codebooks.
  std::string key_codec = "f16";
  std::string value_codec = "f16";
  // Instead of both codecs: by worth, the best share of what was read is stored by the first, the
  // next by the second, and what is in none is dropped; keep must be KeepOf(tiers). The budget says
  // who has the best, as if it kept the first share, then the first two and so on, sinks and window
  // included. Entries are never moved up, and each takes fewer bytes than one of the tier before
  // it. At most three, or four where the first is f16. Layers left whole are as the first says.
  std::vector<Tier> tiers;
  int window = 128;       // the most recent entries, never evicted
  int sinks = 4;          // the first entries, never evicted
  int skip_layers = 0;    // the first layers, left whole
  uint64_t seed = 0;      // of the scorer "random"
  uint64_t kv_limit = 0;  // bytes the cache may allocate, 0: no limit
  // For "qfilter", "qfilter+", "kvzap", "kvzap+" and "expected_calibrated", and for pq and lr
  // key codecs.
  std::shared_ptr<const Calibration> calibration;

  bool has_codes() const { return StoredTiers().size() > 1; }
  // All tiers there are: first the exact one of window and sinks, in f16. Its share is 0 where
  // nothing else is in it, and each has the share of those before it added.
  std::vector<Tier> StoredTiers() const;
};

// What is known of the worths that the plan's scorer gives: evenly spaced quantiles over other
// texts, all layers and heads together, ascending. Empty unless its calibration has them.
std::span<const float> WorthQuantiles(const Plan& plan);

// Where the plan's tau lies among them.
enum class TauReach {
  kUnknown,  // no tau, or no quantiles
  kWithin,
  kBelowAll,  // it keeps everything
  kAboveAll,  // it keeps nothing but sinks and window
};
TauReach ReachOfTau(const Plan& plan);

std::vector<std::string> ScorerNames();
std::vector<std::string> BudgetNames();  // "auto" first

}  // namespace pith
