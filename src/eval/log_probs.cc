#include "eval/log_probs.h"

#include <algorithm>
#include <cmath>

#include "base/fail.h"

namespace pith {
namespace {

double LogSumExp(std::span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum);
}

}  // namespace

void LogSoftmax(std::span<const float> logits, std::span<double> log_probs) {
  const double log_sum = LogSumExp(logits);
  for (size_t i = 0; i < logits.size(); ++i) log_probs[i] = logits[i] - log_sum;
}

double NegativeLogLikelihood(std::span<const float> logits, Token token) {
  const double nll = LogSumExp(logits) - logits[static_cast<size_t>(token)];
  if (!std::isfinite(nll)) {
    Fail(ErrorCode::kFormat, "the model gives token {} a likelihood of e^{}, expected one above 0",
         token, -nll);
  }
  return nll;
}

double Divergence(std::span<const double> log_p, std::span<const double> log_q) {
  double sum = 0;
  for (size_t i = 0; i < log_p.size(); ++i) {
    const double p = std::exp(log_p[i]);
    if (p > 0) sum += p * (log_p[i] - log_q[i]);
  }
  return sum < 0 ? 0 : sum;  // NaN stays
}

}  // namespace pith
