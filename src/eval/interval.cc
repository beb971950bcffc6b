#include "eval/interval.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/fail.h"
#include "eval/seeded_random.h"

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

Interval BootstrapMean(std::span<const double> values, uint64_t seed) {
  const std::vector<double> group(values.begin(), values.end());
  return BootstrapMeanOfMeans({&group, 1}, seed);
}

Interval BootstrapMeanOfMeans(std::span<const std::vector<double>> groups, uint64_t seed) {
  constexpr int kSamples = 10000;
  if (groups.empty() ||
      std::any_of(groups.begin(), groups.end(), [](const auto& group) { return group.empty(); })) {
    Fail(ErrorCode::kInvalidArgument, "no values to draw from, expected some");
  }
  SeededRandom random(seed);
  std::vector<double> means;
  means.reserve(kSamples);
  for (int i = 0; i < kSamples; ++i) {
    double mean = 0;
    for (const std::vector<double>& group : groups) {
      double sum = 0;
      for (size_t j = 0; j < group.size(); ++j) sum += group[random.Below(group.size())];
      mean += sum / static_cast<double>(group.size());
    }
    means.push_back(mean / static_cast<double>(groups.size()));
  }
  return {Quantile(means, 0.025), Quantile(means, 0.975)};
}

double Mean(std::span<const double> values) {
  if (values.empty()) Fail(ErrorCode::kInvalidArgument, "no values to average, expected some");
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

PairedMeans ComparePaired(std::span<const double> baseline, std::span<const double> values,
                          uint64_t seed) {
  if (baseline.size() != values.size()) {
    Fail(ErrorCode::kInvalidArgument,
         "{} values and {} to compare them with, expected the same number", values.size(),
         baseline.size());
  }
  std::vector<double> increases;
  for (size_t i = 0; i < values.size(); ++i) increases.push_back(values[i] - baseline[i]);
  PairedMeans means;
  means.mean = Mean(values);
  means.interval = BootstrapMean(values, seed);
  means.baseline = Mean(baseline);
  means.increase = Mean(increases);
  means.increase_interval = BootstrapMean(increases, seed);
  return means;
}

double Quantile(std::span<const double> values, double q) {
  if (values.empty()) Fail(ErrorCode::kInvalidArgument, "no values to order, expected some");
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace pith
