// How sure a share is that was counted in few trials.
#pragma once

#include <cstdint>

namespace pith {

struct Interval {
  double low = 0;
  double high = 1;
};

// The Wilson score interval of 95 % for the probability of a success (E. B. Wilson, Journal of the
// American Statistical Association 22, 1927). Within [0, 1]; all of it for no trials.
// Throws Error(kInvalidArgument) unless 0 <= successes <= trials.
Interval WilsonInterval(int64_t successes, int64_t trials);

}  // namespace pith
