// Compiled once per SIMD level: a measurement takes half a billion exponentials a minute.
#include "eval/log_probs.h"

#include <algorithm>
#include <cmath>

#include "base/fail.h"

#define HWY_DISABLED_TARGETS \
  (HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "eval/log_probs.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h, which includes this file again for every level.
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using DoubleTag = hn::ScalableTag<double>;

// e^x; the library's gives 0 for what is no number.
HWY_INLINE hn::Vec<DoubleTag> Exp(hn::Vec<DoubleTag> x) {
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(DoubleTag(), x));
}

// sum_i e^(logits[i] - top)
double SumExp(std::span<const float> logits, double top) {
  const DoubleTag d;
  const hn::Rebind<float, DoubleTag> half;
  const size_t lanes = hn::Lanes(d);
  const auto shift = hn::Set(d, top);
  auto sum = hn::Zero(d);
  size_t i = 0;
  for (; i + lanes <= logits.size(); i += lanes) {
    const auto logit = hn::PromoteTo(d, hn::LoadU(half, logits.data() + i));
    sum = hn::Add(sum, Exp(hn::Sub(logit, shift)));
  }
  double total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < logits.size(); ++i) total += std::exp(logits[i] - top);
  return total;
}

// sum_i p_i (ln p_i - ln q_i), without the terms that have no p
double SumDivergence(std::span<const double> log_p, std::span<const double> log_q) {
  const DoubleTag d;
  const size_t lanes = hn::Lanes(d);
  auto sum = hn::Zero(d);
  size_t i = 0;
  for (; i + lanes <= log_p.size(); i += lanes) {
    const auto lp = hn::LoadU(d, log_p.data() + i);
    const auto p = Exp(lp);
    const auto term = hn::Mul(p, hn::Sub(lp, hn::LoadU(d, log_q.data() + i)));
    sum = hn::Add(sum, hn::IfThenZeroElse(hn::Eq(p, hn::Zero(d)), term));
  }
  double total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < log_p.size(); ++i) {
    const double p = std::exp(log_p[i]);
    if (p != 0) total += p * (log_p[i] - log_q[i]);
  }
  return total;
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace pith {
namespace {

HWY_EXPORT(SumExp);
HWY_EXPORT(SumDivergence);

double LogSumExp(std::span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  return top + std::log(HWY_DYNAMIC_DISPATCH(SumExp)(logits, top));
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
  const double sum = HWY_DYNAMIC_DISPATCH(SumDivergence)(log_p, log_q);
  return sum < 0 ? 0 : sum;  // NaN stays
}

}  // namespace pith
#endif  // HWY_ONCE
