#include "calibrate/query_svd.h"

#include <gtest/gtest.h>

#include <Eigen/SVD>
#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "base/safetensors.h"
#include "calibrate/rope_layout.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

using testing::ExpectError;

constexpr QueryShape kShape{3, 4, 2, 8};
constexpr size_t kToken = 4 * 8;  // floats of one token in one layer

std::vector<float> RandomQueries(int64_t n_tokens, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.3f);
  std::vector<float> queries(static_cast<size_t>(n_tokens) * kToken);
  for (float& q : queries) q = normal(random);
  return queries;
}

void Fill(QuerySampler& sampler, const std::vector<float>& queries, int64_t piece) {
  const auto n = static_cast<int64_t>(queries.size() / kToken);
  for (int layer = 0; layer < kShape.n_layers; ++layer) {
    for (int64_t i = 0; i < n; i += piece) {
      const int64_t count = std::min(piece, n - i);
      sampler.Add(layer, i, std::span(queries).subspan(i * kToken, count * kToken));
    }
  }
}

TEST(QuerySampler, SpreadsItsRowsEvenlyAndRepeatably) {
  for (const auto& [n_tokens, n_rows] :
       {std::pair<int64_t, int>{40960, 3000}, {100, 99}, {7, 7}, {7, 1}, {7, 100}}) {
    const QuerySampler sampler(kShape, n_tokens, n_rows, 42);
    const QuerySampler again(kShape, n_tokens, n_rows, 42);
    EXPECT_EQ(sampler.n_rows(), std::min<int64_t>(n_tokens, n_rows));
    EXPECT_TRUE(std::equal(sampler.tokens().begin(), sampler.tokens().end(), again.tokens().begin(),
                           again.tokens().end()));
    const int64_t stretch = (n_tokens + sampler.n_rows() - 1) / sampler.n_rows();
    int64_t last = -1;
    for (const int64_t token : sampler.tokens()) {
      EXPECT_GT(token, last);
      EXPECT_LT(token, n_tokens);
      EXPECT_LT(token - last, 2 * stretch + 1);
      last = token;
    }
  }
  const QuerySampler one(kShape, 40960, 3000, 1);
  const QuerySampler two(kShape, 40960, 3000, 2);
  EXPECT_FALSE(std::equal(one.tokens().begin(), one.tokens().end(), two.tokens().begin()));
}

TEST(QuerySampler, HoldsTheRowsOfEachHeadHoweverTheyCome) {
  const std::vector<float> queries = RandomQueries(50, 1);
  for (const int64_t piece : {50, 7, 1}) {
    QuerySampler sampler(kShape, 50, 20, 3);
    EXPECT_FALSE(sampler.complete());
    Fill(sampler, queries, piece);
    EXPECT_TRUE(sampler.complete());
    for (int head = 0; head < kShape.n_heads; ++head) {
      const MatrixView<const float> rows = sampler.Rows(2, head);
      ASSERT_EQ(rows.rows, 20u);
      ASSERT_EQ(rows.cols, 8u);
      for (size_t i = 0; i < rows.rows; ++i) {
        const float* expected =
            queries.data() + static_cast<size_t>(sampler.tokens()[i]) * kToken + head * 8;
        EXPECT_TRUE(std::equal(expected, expected + 8, rows.row(i)));
      }
    }
  }
}

TEST(QuerySampler, RefusesMisuse) {
  constexpr auto kInvalid = ErrorCode::kInvalidArgument;
  ExpectError(kInvalid, "make no sense", [] { QuerySampler({0, 4, 2, 8}, 10, 5, 0); });
  ExpectError(kInvalid, "make no sense", [] { QuerySampler({3, 4, 3, 8}, 10, 5, 0); });
  ExpectError(kInvalid, "at least 1", [] { QuerySampler(kShape, 0, 5, 0); });
  ExpectError(kInvalid, "at least 1", [] { QuerySampler(kShape, 10, 0, 0); });
  QuerySampler sampler(kShape, 10, 10, 0);
  const std::vector<float> token(kToken);
  ExpectError(kInvalid, "not part of", [&] { sampler.Add(3, 0, token); });
  ExpectError(kInvalid, "not part of", [&] { sampler.Add(-1, 0, token); });
  ExpectError(kInvalid, "not part of", [&] { sampler.Add(0, 10, token); });
  ExpectError(kInvalid, "not part of", [&] { sampler.Add(0, -1, token); });
  ExpectError(kInvalid, "not part of", [&] { sampler.Add(0, 0, std::span(token).first(9)); });
  sampler.Add(0, 4, token);
  ExpectError(kInvalid, "came twice", [&] { sampler.Add(0, 4, token); });
  ExpectError(kInvalid, "not every sampled token", [&] { QueryFilters(sampler, false); });
}

// Eigen's singular value decomposition of the rows themselves, the definition.
std::vector<double> DirectionBySvd(MatrixView<const float> queries) {
  Eigen::MatrixXd rows(queries.rows, queries.cols);
  for (size_t i = 0; i < queries.rows; ++i) {
    for (size_t j = 0; j < queries.cols; ++j) rows(i, j) = queries.row(i)[j];
  }
  const Eigen::JacobiSVD<Eigen::MatrixXd> svd(rows, Eigen::ComputeThinU | Eigen::ComputeThinV);
  const auto positive = (svd.matrixU().col(0).array() > 0).count();
  const double sign = 2 * positive > svd.matrixU().rows() ? 1 : -1;
  const Eigen::VectorXd v = sign * svd.matrixV().col(0);
  return {v.begin(), v.end()};
}

TEST(PrincipalDirection, IsTheFirstRightSingularVector) {
  for (const size_t n : {1, 3, 5, 33, 101}) {
    for (const size_t dim : {8, 64, 128}) {
      std::mt19937 random(static_cast<unsigned>(n * dim));
      std::normal_distribution<float> normal(0.2f);
      std::vector<float> values(n * (dim + 3));
      for (float& v : values) v = normal(random);
      const MatrixView<const float> rows{values.data(), n, dim, dim + 3};
      const std::vector<double> got = PrincipalDirection(rows);
      const std::vector<double> want = DirectionBySvd(rows);
      ASSERT_EQ(got.size(), dim);
      for (size_t i = 0; i < dim; ++i) {
        EXPECT_TRUE(std::abs(got[i] - want[i]) <= 1e-9) << n << " rows of " << dim << ", " << i;
      }
    }
  }
}

TEST(PrincipalDirection, TheMajorityGivesTheSign) {
  // Three small products against one large: the majority counts, not the sum.
  const std::vector<float> values = {1, 0, 1, 0.1f, 1, -0.1f, -50, 0};
  EXPECT_NEAR(PrincipalDirection({values.data(), 4, 2, 2})[0], 1, 1e-3);
  const std::vector<float> tie = {1, 0, -50, 0};
  EXPECT_NEAR(PrincipalDirection({tie.data(), 2, 2, 2})[0], -1, 1e-9);
}

// The golden filters were made by torch from the same queries.
TEST(QueryFilters, EqualTheGoldenOnes) {
  const SafeTensors golden = SafeTensors::Open(PITH_TEST_DATA "/qfilters.safetensors");
  const std::vector<float> want = golden.Get("q_filters").ToFloats();
  constexpr size_t kHeads = 9, kKvHeads = 3, kTokens = 128, kDim = 64;
  for (const int layer : {3, 15}) {
    const SafeTensors arrays = SafeTensors::Open(std::string(PITH_TEST_DATA "/scorers_layer") +
                                                 std::to_string(layer) + ".safetensors");
    ASSERT_EQ(arrays.Get("q").shape, (std::vector<int64_t>{kHeads, kTokens, kDim}));
    const std::vector<float> q = arrays.Get("q").ToFloats();
    for (const bool interleaved : {false, true}) {
      std::vector<float> queries(q.size());  // [T, n_heads, head_dim]
      for (size_t head = 0; head < kHeads; ++head) {
        for (size_t t = 0; t < kTokens; ++t) {
          for (size_t i = 0; i < kDim; ++i) {
            const size_t to = interleaved ? InterleavedIndex(static_cast<int>(i), kDim) : i;
            queries[(t * kHeads + head) * kDim + to] = q[(head * kTokens + t) * kDim + i];
          }
        }
      }
      QuerySampler sampler({1, kHeads, kKvHeads, kDim}, kTokens, 3000, 42);
      sampler.Add(0, 0, queries);
      const std::vector<float> got = QueryFilters(sampler, interleaved);
      ASSERT_EQ(got.size(), kKvHeads * kDim);
      for (size_t head = 0; head < kKvHeads; ++head) {
        double error = 0, norm = 0;
        for (size_t i = 0; i < kDim; ++i) {
          const double w = want[(layer * kKvHeads + head) * kDim + i];
          const double d = got[head * kDim + i] - w;
          error += d * d;
          norm += w * w;
        }
        EXPECT_TRUE(std::sqrt(error / norm) <= 1e-4)
            << "layer " << layer << ", head " << head << ": " << std::sqrt(error / norm);
      }
    }
  }
}

TEST(QueryFilters, AveragesOverTheGroupAndReportsProgress) {
  QuerySampler sampler(kShape, 30, 30, 0);
  Fill(sampler, RandomQueries(30, 5), 30);
  std::vector<int64_t> calls;
  const std::vector<float> filters = QueryFilters(sampler, false, [&](int64_t done, int64_t total) {
    EXPECT_EQ(total, 3);
    calls.push_back(done);
    return true;
  });
  EXPECT_EQ(calls, (std::vector<int64_t>{1, 2, 3}));
  ASSERT_EQ(filters.size(), 3u * 2 * 8);
  const std::vector<double> a = PrincipalDirection(sampler.Rows(1, 2));
  const std::vector<double> b = PrincipalDirection(sampler.Rows(1, 3));
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_NEAR(filters[(1 * 2 + 1) * 8 + i], -(a[i] + b[i]) / 2, 1e-6);
  }
  ExpectError(ErrorCode::kCancelled, "cancelled",
              [&] { QueryFilters(sampler, false, [](int64_t, int64_t) { return false; }); });
}

TEST(QueryFilters, RefusesWhatIsNotFinite) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    QuerySampler sampler(kShape, 30, 30, 0);
    std::vector<float> queries = RandomQueries(30, 6);
    queries[77] = bad;
    Fill(sampler, queries, 30);
    ExpectError(ErrorCode::kInvalidArgument, "not finite", [&] { QueryFilters(sampler, true); });
  }
}

}  // namespace
}  // namespace pith
