#include "eval/interval.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "pith/error.h"

namespace pith {
namespace {

TEST(Interval, KnownValues) {
  struct Known {
    int64_t successes, trials;
    double low, high;
  };
  // Solutions of |p - s/n| = z sqrt(p (1 - p) / n), z = 1.959963984540054, by bisection.
  for (const Known& known :
       {Known{0, 10, 0.0, 0.2775327999}, Known{10, 10, 0.7224672001, 1.0},
        Known{5, 10, 0.2365930905, 0.7634069095}, Known{38, 40, 0.8349612263, 0.9861793326},
        Known{1, 4, 0.0455872608, 0.6993581574}}) {
    const Interval interval = WilsonInterval(known.successes, known.trials);
    EXPECT_NEAR(interval.low, known.low, 1e-9) << known.successes << "/" << known.trials;
    EXPECT_NEAR(interval.high, known.high, 1e-9) << known.successes << "/" << known.trials;
  }
}

TEST(Interval, EdgesAreExact) {
  EXPECT_EQ(WilsonInterval(0, 7).low, 0.0);
  EXPECT_EQ(WilsonInterval(7, 7).high, 1.0);
  EXPECT_EQ(WilsonInterval(0, 0).low, 0.0);
  EXPECT_EQ(WilsonInterval(0, 0).high, 1.0);
  EXPECT_THROW(WilsonInterval(3, 2), Error);
  EXPECT_THROW(WilsonInterval(-1, 2), Error);
}

TEST(QuantileTest, LinearBetweenValues) {
  const std::vector<double> values = {4, 1, 3, 2};
  EXPECT_EQ(Quantile(values, 0), 1);
  EXPECT_EQ(Quantile(values, 1), 4);
  EXPECT_EQ(Quantile(values, 0.5), 2.5);
  EXPECT_NEAR(Quantile(values, 0.9), 3.7, 1e-12);
  EXPECT_EQ(Quantile(std::vector<double>{7}, 0.99), 7);
  EXPECT_THROW(Quantile({}, 0.5), Error);
}

TEST(BootstrapTest, AsWideAsTheNormalIntervalOfManyValues) {
  std::vector<double> values;
  for (int i = 0; i < 200; ++i) values.push_back(i % 20);
  const double deviation = std::sqrt((400 - 1) / 12.0);  // of 0, ..., 19 equally likely
  const double half = 1.959963984540054 * deviation / std::sqrt(200.0);
  const Interval interval = BootstrapMean(values, 1);
  EXPECT_NEAR(interval.low, 9.5 - half, 0.1 * half);
  EXPECT_NEAR(interval.high, 9.5 + half, 0.1 * half);
}

TEST(BootstrapTest, SeedDrawsTheSamePlacesForAllValues) {
  const std::vector<double> values = {1, 5, 2, 8, 3};
  std::vector<double> shifted = values;
  for (double& value : shifted) value = 2 * value + 1;
  const Interval first = BootstrapMean(values, 3);
  EXPECT_EQ(BootstrapMean(values, 3).low, first.low);
  EXPECT_EQ(BootstrapMean(values, 3).high, first.high);
  EXPECT_NEAR(BootstrapMean(shifted, 3).low, 2 * first.low + 1, 1e-12);
  EXPECT_NEAR(BootstrapMean(shifted, 3).high, 2 * first.high + 1, 1e-12);
  EXPECT_LT(first.low, 3.8);
  EXPECT_GT(first.high, 3.8);
}

TEST(BootstrapTest, FewValues) {
  EXPECT_EQ(BootstrapMean(std::vector<double>{4}, 1).low, 4);
  EXPECT_EQ(BootstrapMean(std::vector<double>{4}, 1).high, 4);
  EXPECT_THROW(BootstrapMean({}, 1), Error);
}

TEST(BootstrapMeanOfMeansTest, GroupsCountAlike) {
  const std::vector<std::vector<double>> groups = {{0, 0, 0, 0, 0, 0}, {1}, {0, 1}};
  const Interval interval = BootstrapMeanOfMeans(groups, 1);
  EXPECT_NEAR(interval.low, 1.0 / 3, 1e-12);
  EXPECT_NEAR(interval.high, 2.0 / 3, 1e-12);
  const std::vector<double> values = {1, 5, 2, 8};
  const std::vector<std::vector<double>> one = {values};
  EXPECT_EQ(BootstrapMeanOfMeans(one, 3).low, BootstrapMean(values, 3).low);
  EXPECT_THROW(BootstrapMeanOfMeans({}, 1), Error);
  EXPECT_THROW(BootstrapMeanOfMeans(std::vector<std::vector<double>>{{1}, {}}, 1), Error);
}

TEST(ComparePairedTest, DifferencesAreTakenTrialByTrial) {
  const std::vector<double> baseline = {1, 5, 9};
  const std::vector<double> values = {1.5, 5.5, 9.5};
  const PairedMeans means = ComparePaired(baseline, values, 1);
  EXPECT_NEAR(means.mean, 5.5, 1e-15);
  EXPECT_NEAR(means.baseline, 5, 1e-15);
  EXPECT_NEAR(means.increase, 0.5, 1e-15);
  EXPECT_LT(means.interval.low, 3);
  EXPECT_GT(means.interval.high, 8);
  EXPECT_NEAR(means.increase_interval.low, 0.5, 1e-15);
  EXPECT_NEAR(means.increase_interval.high, 0.5, 1e-15);
  EXPECT_THROW(ComparePaired(baseline, std::span(values).first(2), 1), Error);
  EXPECT_THROW(ComparePaired({}, {}, 1), Error);
}

}  // namespace
}  // namespace pith
