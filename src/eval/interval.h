// How sure a share or a mean is that comes from few trials.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace pith {

struct Interval {
  double low = 0;
  double high = 1;
};

// The Wilson score interval of 95 % for the probability of a success (E. B. Wilson, Journal of the
// American Statistical Association 22, 1927). Within [0, 1]; all of it for no trials.
// Throws Error(kInvalidArgument) unless 0 <= successes <= trials.
Interval WilsonInterval(int64_t successes, int64_t trials);

// 95 % of the means of 10,000 samples of as many values drawn with replacement (percentile
// bootstrap: B. Efron, Annals of Statistics 7, 1979). The same seed draws the same places whatever
// the values. Of a single value, that value. Throws Error(kInvalidArgument) for none.
Interval BootstrapMean(std::span<const double> values, uint64_t seed);

// The same of the mean of the groups' means, where every group is drawn from by itself.
// Throws Error(kInvalidArgument) for no groups, or an empty one.
Interval BootstrapMeanOfMeans(std::span<const std::vector<double>> groups, uint64_t seed);

// Throws Error(kInvalidArgument) for no values.
double Mean(std::span<const double> values);

// A measure of several trials, beside a baseline's on the same ones.
struct PairedMeans {
  double mean = 0;
  Interval interval;
  double baseline = 0;
  double increase = 0;  // mean - baseline
  Interval increase_interval;
};

// Intervals are BootstrapMean's, that of the increase over differences trial by trial.
// Throws Error(kInvalidArgument) for no values, or for another number of them.
PairedMeans ComparePaired(std::span<const double> baseline, std::span<const double> values,
                          uint64_t seed);

// The value below which the share q in [0, 1] lies, linear between two values.
// Throws Error(kInvalidArgument) for no values.
double Quantile(std::span<const double> values, double q);

}  // namespace pith
