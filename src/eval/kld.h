// What compression does to the predictions of running text: how far the distribution over the next
// token moves, and how likely the tokens remain that really follow.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "eval/branches.h"
#include "eval/interval.h"
#include "pith/text.h"

namespace pith {

// The natural logarithm of softmax(logits), in double precision. logits, log_probs [n]
void LogSoftmax(std::span<const float> logits, std::span<double> log_probs);

// sum_i p_i (ln p_i - ln q_i), in nats, of two distributions given by their logarithms; terms
// without p are 0. Not below 0, where rounding would leave it.
double Divergence(std::span<const double> log_p, std::span<const double> log_q);

struct KldPiece {
  int document = 0;
  int64_t begin = 0;           // first token of the document that is read
  std::vector<Token> opening;  // BOS if the model expects one
  std::vector<Token> context;
  std::vector<Token> next;  // read after compression; the last one only to be predicted
};

// Pieces of plain text, without a chat template.
class KldTask {
 public:
  // `documents` are UTF-8. Compares `n_next` predictions, at least 1.
  // Throws Error(kInvalidArgument).
  KldTask(const Tokenizer& tokenizer, std::span<const std::string> documents, int n_next,
          uint64_t seed);

  // Tokens of the longest document.
  int64_t longest() const;

  // Piece `index`: `length` tokens, BOS included, and n_next + 1 that follow them in the same
  // document. Places are spread as evenly as can be over all documents that are long enough, by
  // steps of the golden ratio from a seeded start, so that what is predicted hardly ever overlaps.
  // Throws Error(kInvalidArgument) when no document is long enough.
  KldPiece Make(int index, int64_t length) const;

 private:
  bool has_bos_;
  Token bos_;
  int n_next_;
  uint64_t seed_;
  std::vector<std::vector<Token>> documents_;
};

// One piece with one plan, at each of the n_next predictions.
struct KldOutcome : ReadingStats {
  std::vector<double> divergence;  // [n_next] nats, KL(full cache || this one)
  std::vector<double> nll;         // [n_next] -ln of the probability of the token that follows
  std::vector<int> same_top;  // [n_next] 1 where both find the same token the likeliest, else 0
  // Of the piece, for whoever reads the result.
  int document = 0;
  int64_t begin = 0;
};

// Reads context, compresses, and has the tokens that follow read (pinned: nothing more is evicted).
// The full cache does the same, whether it is among the plans or not. One outcome per plan.
// Throws what Session throws.
std::vector<KldOutcome> RunKld(const Model& model, const KldPiece& piece,
                               std::span<const Plan> plans, Compression compression,
                               const SessionOptions& options);

struct KldSummary {
  double mean = 0;    // of the divergence, over all predictions
  Interval interval;  // of the mean
  double median = 0;
  double p99 = 0;
  double p999 = 0;
  double same_top = 0;  // share
  Interval same_top_interval;
  double nll = 0;
  double full_nll = 0;
  double nll_increase = 0;
  Interval nll_increase_interval;
};

// Of all pieces, [n_pieces] each and in the same order. Intervals are of 95 %, by a bootstrap over
// pieces; the increase of NLL is paired. The same seed draws the same pieces for every plan.
// Throws Error(kInvalidArgument) for no pieces, or for another number of them.
KldSummary SummariseKld(std::span<const KldOutcome> full, std::span<const KldOutcome> outcomes,
                        uint64_t seed);

}  // namespace pith
