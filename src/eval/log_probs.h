// Distributions over the next token, as natural logarithms.
#pragma once

#include <span>

#include "pith/text.h"

namespace pith {

// The natural logarithm of softmax(logits), in double precision. logits, log_probs [n]
void LogSoftmax(std::span<const float> logits, std::span<double> log_probs);

// -ln softmax(logits)[token], in nats. Throws Error(kFormat) unless it is finite.
double NegativeLogLikelihood(std::span<const float> logits, Token token);

// sum_i p_i (ln p_i - ln q_i), in nats, of two distributions given by their logarithms; terms
// without p are 0. Not below 0, where rounding would leave it.
double Divergence(std::span<const double> log_p, std::span<const double> log_q);

}  // namespace pith
