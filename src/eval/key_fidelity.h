// What attention makes of keys that are not quite what they were (the measures of LOOKAT, arXiv
// 2601.10155, section 4).
#pragma once

#include <span>
#include <vector>

#include "base/matrix_view.h"

namespace pith {

struct KeyFidelity {
  double cosine = 0;      // of attention's output with the exact one, -1 to 1
  double divergence = 0;  // KL(exact || coded) of the weights, nats
  double spearman = 0;    // rank correlation of the scores, -1 to 1
  double top5 = 0;        // share of the 5 entries of largest score that stay among these
};

// One query over a head's exact keys, for others to be compared with.
class ExactAttention {
 public:
  // scores [n], n > 0: q . k / sqrt(head_dim), finite. values [n, head_dim] outlive this.
  ExactAttention(std::span<const double> scores, MatrixView<const float> values);

  // scores [n] of the same query and entries. Where an output is all zeros, the cosine is 1.
  KeyFidelity Compare(std::span<const double> scores) const;

 private:
  MatrixView<const float> values_;
  std::vector<double> scores_;
  double log_sum_ = 0;  // a weight is exp(score - log_sum_)
  std::vector<double> weights_;
  std::vector<double> ranks_;
  std::vector<double> output_;
  std::vector<size_t> top_;  // ascending
};

}  // namespace pith
