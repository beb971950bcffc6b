// What compression does to the predictions of running text: how far the distribution over the next
// token moves, and how likely the tokens remain that really follow.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "eval/branches.h"
#include "eval/interval.h"
#include "eval/text_pieces.h"

namespace pith {

// One piece with one plan, at each of the n_next predictions.
struct KldOutcome : ReadingStats {
  std::vector<double> divergence;  // [n_next] nats, KL(full cache || this one)
  std::vector<double> nll;         // [n_next] -ln of the probability of the token that follows
  std::vector<int> same_top;  // [n_next] 1 where both find the same token the likeliest, else 0
  // Of the piece, for whoever reads the result.
  int document = 0;
  int64_t begin = 0;
};

// What the full cache predicts of a piece.
struct FullPredictions {
  KldOutcome outcome;
  // Logarithms of the probabilities of prediction `row` [n_vocab].
  std::function<void(size_t row, std::span<double> log_probs)> log_probs;
};

// Reads a piece with the full cache. Its last n_next + 1 tokens are those that RunKld compares.
// Throws what Session throws.
FullPredictions PredictFull(const Model& model, const TextPiece& piece, int n_next,
                            const SessionOptions& options);

// Reads a piece but for its last n_next + 1 tokens, compresses, and has those read but for the very
// last, which is only predicted (pinned: nothing more is evicted). The full cache does the same,
// whether it is among the plans or not, unless what it predicts is known. One outcome per plan.
// Throws what Session throws.
std::vector<KldOutcome> RunKld(const Model& model, const TextPiece& piece, int n_next,
                               std::span<const Plan> plans, Compression compression,
                               const SessionOptions& options,
                               const FullPredictions* known = nullptr);

struct KldSummary {
  double mean = 0;    // of the divergence, over all predictions
  Interval interval;  // of the mean
  double median = 0;
  double p99 = 0;
  double p999 = 0;
  double same_top = 0;  // share
  Interval same_top_interval;
  PairedMeans nll;  // beside the full cache's
};

// Of all pieces, [n_pieces] each and in the same order. Intervals are of 95 %, by a bootstrap over
// pieces; the increase of NLL is paired. The same seed draws the same pieces for every plan.
// Throws Error(kInvalidArgument) for no pieces, or for another number of them.
KldSummary SummariseKld(std::span<const KldOutcome> full, std::span<const KldOutcome> outcomes,
                        uint64_t seed);

}  // namespace pith
