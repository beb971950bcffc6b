// Mean and covariance of queries: what is measured, and the file that holds it.
#include "calibrate/query_statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "calibrate/metadata_keys.h"
#include "calibrate/rope_layout.h"
#include "tools/expect_error.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::ExpectError;
using testing::TempFolder;

constexpr QueryShape kShape{2, 4, 2, 8};
constexpr int kSequence = 50;
constexpr int kSinks = 4;

Rope TestRope(bool interleaved) {
  HyperParams h;
  h.head_dim = h.n_rot = kShape.head_dim;
  h.rope_interleaved = interleaved;
  return Rope(h, {});
}

// Queries before RoPE that depend on the layer, the head and the token; sinks ask something else.
std::vector<float> Plain(int layer, int64_t n_tokens) {
  std::mt19937_64 random(static_cast<uint64_t>(layer) + 1);
  std::normal_distribution<float> normal;
  std::vector<float> queries(static_cast<size_t>(n_tokens) * kShape.n_heads * kShape.head_dim);
  for (size_t i = 0; i < queries.size(); ++i) {
    const auto token = static_cast<int64_t>(i) / (kShape.n_heads * kShape.head_dim);
    queries[i] = static_cast<float>(i % 7) + normal(random);
    if (token % kSequence < kSinks) queries[i] += 1000;
  }
  return queries;
}

QuerySampler Sampled(int64_t n_tokens, int rows, const Rope& rope) {
  QuerySampler sampler(kShape, n_tokens, rows, 7);
  for (int layer = 0; layer < kShape.n_layers; ++layer) {
    std::vector<float> queries = Plain(layer, n_tokens);
    for (size_t i = 0; i < queries.size(); i += kShape.head_dim) {
      const auto token = static_cast<int64_t>(i) / (kShape.n_heads * kShape.head_dim);
      rope.At(token % kSequence).Turn(queries.data() + i);
    }
    sampler.Add(layer, 0, queries);
  }
  return sampler;
}

TEST(QueryStatistics, AreThoseBeforeRopeWithoutSinks) {
  constexpr int64_t kTokens = 4 * kSequence;
  for (const bool interleaved : {false, true}) {
    const Rope rope = TestRope(interleaved);
    const QuerySampler sampler = Sampled(kTokens, 120, rope);
    const QueryStatistics found =
        MeasureQueries(sampler, rope, kSequence, kSinks, interleaved, true);
    const QueryStatistics spread =
        MeasureQueries(sampler, rope, kSequence, kSinks, interleaved, false);
    EXPECT_EQ(spread.mean, found.mean);
    ASSERT_EQ(spread.covariance.size(), found.mean.size());
    for (size_t i = 0; i < spread.covariance.size(); ++i) {
      EXPECT_EQ(spread.covariance[i], found.covariance[i * kShape.head_dim + i % kShape.head_dim]);
    }
    EXPECT_EQ(found.n_layers, kShape.n_layers);
    EXPECT_EQ(found.n_heads, kShape.n_heads);
    EXPECT_EQ(found.head_dim, kShape.head_dim);
    for (int layer = 0; layer < kShape.n_layers; ++layer) {
      const std::vector<float> plain = Plain(layer, kTokens);
      for (int head = 0; head < kShape.n_heads; ++head) {
        const auto element = [&](int64_t token, int i) -> double {
          const int dim = interleaved ? InterleavedIndex(i, kShape.head_dim) : i;
          return plain[static_cast<size_t>((token * kShape.n_heads + head) * kShape.head_dim +
                                           dim)];
        };
        std::vector<double> mean(kShape.head_dim), covariance(kShape.head_dim * kShape.head_dim);
        int n = 0;
        for (const int64_t token : sampler.tokens()) n += token % kSequence >= kSinks;
        ASSERT_GT(n, 90);
        for (const int64_t token : sampler.tokens()) {
          if (token % kSequence < kSinks) continue;
          for (int i = 0; i < kShape.head_dim; ++i) mean[i] += element(token, i) / n;
        }
        for (const int64_t token : sampler.tokens()) {
          if (token % kSequence < kSinks) continue;
          for (int i = 0; i < kShape.head_dim; ++i) {
            for (int j = 0; j < kShape.head_dim; ++j) {
              covariance[i * kShape.head_dim + j] +=
                  (element(token, i) - mean[i]) * (element(token, j) - mean[j]) / n;
            }
          }
        }
        const size_t row = size_t{1} * layer * kShape.n_heads + head;
        for (int i = 0; i < kShape.head_dim; ++i) {
          EXPECT_FALSE(!(std::abs(found.mean[row * kShape.head_dim + i] - mean[i]) <= 1e-4));
          for (int j = 0; j < kShape.head_dim; ++j) {
            EXPECT_FALSE(
                !(std::abs(found.covariance[(row * kShape.head_dim + i) * kShape.head_dim + j] -
                           covariance[i * kShape.head_dim + j]) <= 2e-4))
                << layer << " " << head << " " << i << " " << j;
          }
        }
      }
    }
  }
}

TEST(QueryStatistics, NeedQueriesThatAreNumbers) {
  const Rope rope = TestRope(false);
  const QuerySampler sinks = Sampled(kSinks, 4, rope);
  ExpectError(ErrorCode::kInvalidArgument, "none of 4 sampled queries comes after the first 4",
              [&] { MeasureQueries(sinks, rope, kSequence, kSinks, false, false); });
  QuerySampler sampler(kShape, 10, 10, 1);
  std::vector<float> queries(10 * kShape.n_heads * kShape.head_dim, 1.0f);
  sampler.Add(0, 0, queries);
  queries.back() = NAN;
  sampler.Add(1, 0, queries);
  ExpectError(ErrorCode::kInvalidArgument, "layer 1, head 3 are not finite",
              [&] { MeasureQueries(sampler, rope, kSequence, kSinks, false, false); });
}

QueryStatistics SmallStatistics() {
  QueryStatistics statistics{2, 4, 2, {}, {}};
  for (int i = 0; i < 16; ++i) {
    statistics.mean.push_back(static_cast<float>(i) - 4);
    statistics.covariance.push_back(i % 2 == 0 ? 2.0f : 0.5f);
    statistics.covariance.push_back(i % 2 == 0 ? 0.5f : 3.0f);
  }
  return statistics;
}

TEST(QueryStatistics, StandInACalibrationBesideFiltersOrAlone) {
  const TempFolder folder;
  Calibration saved;
  saved.queries = SmallStatistics();
  saved.Save(folder / "alone");
  const Calibration alone = Calibration::Load(folder / "alone");
  ASSERT_TRUE(alone.queries);
  EXPECT_EQ(alone.queries->mean, saved.queries->mean);
  EXPECT_EQ(alone.queries->covariance, saved.queries->covariance);
  EXPECT_EQ(alone.n_layers, 2);
  EXPECT_EQ(alone.head_dim, 2);
  EXPECT_FALSE(alone.has_filters());
  ModelInfo model;
  model.n_layers = 2;
  model.n_heads = 4;
  model.n_kv_heads = 2;
  model.head_dim = 2;
  alone.CheckFits(model);
  model.n_heads = 6;
  ExpectError(ErrorCode::kMismatch, "2 layers, 4 heads and 2 dimensions",
              [&] { alone.CheckFits(model); });

  saved.queries->covariance.resize(16);  // variances only
  saved.Save(folder / "variances");
  EXPECT_EQ(Calibration::Load(folder / "variances").queries->covariance, saved.queries->covariance);

  saved.n_layers = 2;
  saved.n_kv_heads = 2;
  saved.head_dim = 2;
  saved.q_filters = std::vector<float>(8, 1.0f);
  saved.Save(folder / "both");
  const Calibration both = Calibration::Load(folder / "both");
  EXPECT_EQ(both.q_filters, saved.q_filters);
  EXPECT_EQ(both.queries->mean, saved.queries->mean);
  EXPECT_EQ(both.n_kv_heads, 2);
}

TEST(QueryStatistics, DamagedFilesAreRefused) {
  const TempFolder folder;
  constexpr auto kFormat = ErrorCode::kFormat;
  using Shape = std::vector<int64_t>;
  const auto load = [&](const Shape& mean_shape, const std::vector<float>& mean,
                        const Shape& covariance_shape, const std::vector<float>& covariance) {
    WriteSafeTensors(
        folder / "x",
        {{"query_mean", {"F32", mean_shape, std::as_bytes(std::span(mean))}},
         {"query_cov", {"F32", covariance_shape, std::as_bytes(std::span(covariance))}}},
        {});
    Calibration::Load(folder / "x");
  };
  load({1, 1, 2}, {1, 2}, {1, 1, 2, 2}, {1, 0, 0, 1});
  ExpectError(kFormat, "expected [layers, heads, dimensions]", [&] {
    load({1, 2}, {1, 2}, {1, 2, 2}, {1, 0, 0, 1});
  });
  ExpectError(kFormat, "query_cov is [1, 2, 2]", [&] {
    load({1, 1, 2}, {1, 2}, {1, 2, 2}, {1, 0, 0, 1});
  });
  ExpectError(kFormat, "query_mean is [1, 0, 2]", [&] { load({1, 0, 2}, {}, {1, 0, 2, 2}, {}); });
  ExpectError(kFormat, "expected [layers, heads, dimensions]", [&] {
    load({1, 1, 1 << 13}, std::vector<float>(1 << 13), {1, 1, 1}, {1});
  });
  ExpectError(kFormat, "element 1 of query_mean is nan", [&] {
    load({1, 1, 2}, {1, NAN}, {1, 1, 2, 2}, {1, 0, 0, 1});
  });
  ExpectError(kFormat, "element 2 of query_cov is inf", [&] {
    load({1, 1, 2}, {1, 2}, {1, 1, 2, 2}, {1, 0, std::numeric_limits<float>::infinity(), 1});
  });
  ExpectError(kFormat, "a variance in query_cov is -1", [&] {
    load({1, 1, 2}, {1, 2}, {1, 1, 2, 2}, {1, 0, 0, -1});
  });
  const std::vector<float> one = {1, 2};
  WriteSafeTensors(folder / "x",
                   {{"query_mean", {"F32", {1, 1, 2}, std::as_bytes(std::span(one))}}}, {});
  ExpectError(kFormat, "there is no tensor query_cov", [&] { Calibration::Load(folder / "x"); });
  WriteSafeTensors(folder / "x",
                   {{"query_mean", {"F32", {1, 1, 2}, std::as_bytes(std::span(one))}},
                    {"query_var", {"F32", {1, 2, 1}, std::as_bytes(std::span(one))}}},
                   {});
  ExpectError(kFormat, "query_var is [1, 2, 1], expected [layers, heads, dimensions] and the same",
              [&] { Calibration::Load(folder / "x"); });

  Calibration mixed;
  mixed.n_layers = 3;
  mixed.n_kv_heads = 2;
  mixed.head_dim = 2;
  mixed.q_filters = std::vector<float>(12, 1.0f);
  mixed.queries = SmallStatistics();
  mixed.Save(folder / "mixed");
  ExpectError(kFormat, "of 2 layers and 2 dimensions, all else of 3 and 2",
              [&] { Calibration::Load(folder / "mixed"); });
}

}  // namespace
}  // namespace pith
