// Perplexity of whole texts, read with a cache that is compressed on the way.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "eval/branches.h"
#include "eval/text_pieces.h"

namespace pith {

enum class Stride {
  // A batch at a time: what is kept is settled after each, so that the cache holds the budget and
  // the batch that is being read.
  kBatch,
  // Token after token, as if it were generated: after every token the cache is back at its budget.
  // With a number of entries this is the streaming protocol of Q-Filters (arXiv 2503.02812, section
  // 4: at most 512 entries), one entry a head leaving for each that comes; a fraction is one of
  // what has been read so far.
  kToken,
};

// Tokens whose predictions are averaged together in what is known of every position.
inline constexpr int64_t kPositionBin = 128;

// One piece with one plan, of which ReadingStats tells the end.
struct PplOutcome : ReadingStats {
  double nll = 0;  // nats, mean over the predictions of tokens `from` and on
  // Mean over the predicted tokens of each run of kPositionBin; the first token of all is not
  // predicted. [ceil(n_tokens / kPositionBin)]
  std::vector<double> by_position;
  // Of the piece, for whoever reads the result.
  int document = 0;
  int64_t begin = 0;
};

// Reads the piece anew with every plan (1 <= from < tokens of the piece, its opening left out).
// Scorers that judge by repeating need Stride::kBatch and Plan::chunkwise. One outcome per plan.
// Throws what Session throws.
std::vector<PplOutcome> RunPpl(const Model& model, const TextPiece& piece,
                               std::span<const Plan> plans, int64_t from, Stride stride,
                               const SessionOptions& options);

}  // namespace pith
