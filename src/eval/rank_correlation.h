// Spearman's rank correlation.
#pragma once

#include <span>

namespace pith {

// Of two series of the same length, -1 to 1; equal values share the mean of their ranks. 0 where
// either says nothing, all its values being equal. Values are not NaN.
double Spearman(std::span<const double> a, std::span<const double> b);

}  // namespace pith
