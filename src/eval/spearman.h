// Whether a scorer ranks entries as what follows in the text looks at them (arXiv 2503.02812,
// section 4).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "eval/branches.h"
#include "eval/text_pieces.h"

namespace pith {

// One piece with one scorer.
struct SpearmanOutcome : ReadingStats {
  // Rank correlation of the entries' worths with the attention they receive, each the mean over the
  // group's query heads and over the queries from `distance` tokens after the entry to the end of
  // the piece. [n_layers][n_kv_heads]
  std::vector<std::vector<double>> per_head;
  // Of the piece, for whoever reads the result.
  int document = 0;
  int64_t begin = 0;

  double mean() const;  // over heads
};

// Reads the piece once with nothing evicted, judged by all scorers, whose plans keep a fraction of
// 1 and skip no layers. 0 <= distance < tokens of the piece; the opening is not ranked. Takes 4
// bytes for every dimension of every query of the piece. One outcome per plan. Throws what Session
// throws.
std::vector<SpearmanOutcome> RunSpearman(const Model& model, const TextPiece& piece,
                                         std::span<const Plan> plans, int64_t distance,
                                         const SessionOptions& options);

}  // namespace pith
