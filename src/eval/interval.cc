#include "eval/interval.h"

#include <algorithm>
#include <cmath>

#include "base/fail.h"

namespace pith {

Interval WilsonInterval(int64_t successes, int64_t trials) {
  if (successes < 0 || successes > trials) {
    Fail(ErrorCode::kInvalidArgument, "{} of {} trials succeeded, expected between none and all",
         successes, trials);
  }
  if (trials == 0) return {};
  constexpr double kZ = 1.959963984540054;  // of the normal distribution, 97.5 % lie below
  const auto n = static_cast<double>(trials);
  const double p = static_cast<double>(successes) / n;
  const double scale = 1 / (1 + kZ * kZ / n);
  const double centre = (p + kZ * kZ / (2 * n)) * scale;
  const double half = kZ * std::sqrt(p * (1 - p) / n + kZ * kZ / (4 * n * n)) * scale;
  // The formula ends exactly at the edges; rounding would leave a little beside them.
  return {successes == 0 ? 0.0 : std::max(0.0, centre - half),
          successes == trials ? 1.0 : std::min(1.0, centre + half)};
}

}  // namespace pith
