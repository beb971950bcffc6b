// Spearman's rank correlation.
#pragma once

#include <span>
#include <vector>

namespace pith {

// Places of values in ascending order, 0 for the smallest; equal values share the mean of theirs.
// Values are not NaN.
std::vector<double> Ranks(std::span<const double> values);

// Of two series of the same length by their ranks, -1 to 1. 0 where either says nothing, all its
// values being equal.
double RankCorrelation(std::span<const double> ranks_a, std::span<const double> ranks_b);

// The same by the values themselves.
double Spearman(std::span<const double> a, std::span<const double> b);

}  // namespace pith
