// Inputs chosen to break naive kernels, at every SIMD level and on both sides of the choice of
// kernel; the exponential over its whole range; the softmax state.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>

#include "attention/kernels.h"
#include "attention/softmax_state.h"
#include "problem.h"

namespace pith {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kEps = std::numeric_limits<float>::epsilon();

class Numerics : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(level_.taken()); }
  ForcedLevel level_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Levels, Numerics, testing::ValuesIn(AvailableSimdLevels()),
                         [](const auto& param) { return param.param; });

// A chunk for each kernel: one query of 3 heads is decoded, 45 are above every decode_max_rows.
constexpr int kChunks[] = {1, 45};

TEST(Kernels, ChunksReachBoth) {
  for (const std::string& level : AvailableSimdLevels()) {
    const ForcedLevel forced(level);
    EXPECT_GE(CurrentKernels().decode_max_rows, 3 * kChunks[0]);
    EXPECT_LT(CurrentKernels().decode_max_rows, 3 * kChunks[1]);
  }
}

TEST_P(Numerics, ExponentialOverItsRange) {
  // Every 509th float from -0 to -2^23, and what lies around every integer.
  std::vector<float> x;
  for (uint32_t bits = 0x80000000u; bits < 0xcb000000u; bits += 509) {
    x.push_back(std::bit_cast<float>(bits));
  }
  for (int n = 0; n <= 160; ++n) {
    for (const float at : {-static_cast<float>(n), -static_cast<float>(n) - 0.5f}) {
      x.insert(x.end(), {std::nextafter(at, -1e9f), at, std::min(std::nextafter(at, 1e9f), 0.0f)});
    }
  }
  while (x.size() % 64 != 0) x.push_back(0.0f);
  std::vector<float> y(x.size(), kNan);
  CurrentKernels().exp2(x.data(), x.size(), y.data());
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] < -126.0f) {
      ASSERT_EQ(y[i], 0.0f) << x[i];
      continue;
    }
    const double want = std::exp2(double{x[i]});
    const double error = std::fabs(y[i] - want) / want;
    ASSERT_LE(error, 2 * kEps) << x[i];
    worst = std::max(worst, error);
  }
  RecordProperty("worst_eps", std::to_string(worst / kEps));
}

TEST_P(Numerics, ExponentialOfSpecialValues) {
  std::vector<float> x(64, 0.0f);
  x[0] = kNan;
  x[1] = -kNan;
  x[2] = std::bit_cast<float>(0x7fc001ffu);  // a NaN with a payload
  x[3] = std::bit_cast<float>(0xffffffffu);
  x[4] = -kInfinity;
  x[5] = -std::numeric_limits<float>::max();
  x[6] = -0.0f;
  x[7] = -std::numeric_limits<float>::denorm_min();
  std::vector<float> y(64);
  CurrentKernels().exp2(x.data(), x.size(), y.data());
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(std::isnan(y[i])) << i;
  EXPECT_EQ(y[4], 0.0f);
  EXPECT_EQ(y[5], 0.0f);
  for (int i = 6; i < 64; ++i) EXPECT_EQ(y[i], 1.0f) << i;
}

TEST_P(Numerics, LargeScores) {
  // Scores of several thousands: unnormalised exponentials overflow, differences do not.
  for (const int n_tokens : kChunks) {
    const Problem p = MakeProblem(64, 3, {200, 70}, n_tokens, true, 5, 1000.0f);
    const double error = WorstError(p, Attend(p, 2), Reference(p));
    // Here one weight is all and its errors cancel: the tolerance is loose, the result must not be.
    EXPECT_LE(error, 1.0) << n_tokens;
  }
}

TEST_P(Numerics, EqualScoresGiveTheMean) {
  for (const int n_tokens : kChunks) {
    Problem p = MakeProblem(64, 3, {333}, n_tokens, false, 6);
    for (int d = 0; d < 64; ++d) {
      for (int i = 0; i < 333; ++i) p.heads[0]->SetKey(i, d, 0.5f);
    }
    EXPECT_LE(WorstError(p, Attend(p, 2), Reference(p)), 1.0);
  }
}

TEST_P(Numerics, OneEntryDominates) {
  // Wherever it is, its value is the answer, to the bit, as all other weights are below 2^-126.
  for (const int n_tokens : kChunks) {
    for (const int64_t entry : {0, 31, 32, 64, 99, 149}) {
      Problem p = MakeProblem(64, 3, {150}, n_tokens, false, 7);
      std::fill(p.q.begin(), p.q.end(), 4.0f);
      for (int d = 0; d < 64; ++d) {
        p.heads[0]->SetKey(entry, d, 100.0f);
        p.heads[0]->SetValue(entry, d, static_cast<float>(d));
      }
      const std::vector<float> out = Attend(p, 2);
      for (size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], static_cast<float>(i % 64));
    }
  }
}

TEST_P(Numerics, RisingScores) {
  // The running maximum moves with every entry, so that every step rescales.
  for (const int n_tokens : kChunks) {
    Problem p = MakeProblem(64, 3, {300}, n_tokens, true, 8);
    for (int i = 0; i < 300; ++i) {
      for (int d = 0; d < 64; ++d) p.heads[0]->SetKey(i, d, 0.02f * static_cast<float>(i));
    }
    std::fill(p.q.begin(), p.q.end(), 1.0f);
    EXPECT_LE(WorstError(p, Attend(p, 3), Reference(p), 8.0 * 6.0, 1.0), 1.0);
  }
}

TEST_P(Numerics, ZerosAndDenormals) {
  for (const int n_tokens : kChunks) {
    Problem p = MakeProblem(64, 3, {70}, n_tokens, false, 9);
    for (int i = 0; i < 70; ++i) {
      for (int d = 0; d < 64; ++d) {
        p.heads[0]->SetKey(i, d, d % 2 == 0 ? -0.0f : 5.9604645e-8f);  // the smallest f16
        p.heads[0]->SetValue(i, d, i % 2 == 0 ? -0.0f : -5.9604645e-8f);
      }
    }
    for (size_t i = 0; i < p.q.size(); i += 3) p.q[i] = std::numeric_limits<float>::denorm_min();
    EXPECT_LE(WorstError(p, Attend(p, 2), Reference(p), 1e-6, 5.9604645e-8), 1.0);
  }
}

TEST_P(Numerics, NanStaysInItsQuery) {
  for (const int n_tokens : kChunks) {
    const Problem clean = MakeProblem(64, 3, {100, 65}, n_tokens, true, 10);
    const std::vector<float> want = Attend(clean, 2);
    for (const size_t poisoned : {size_t{0}, clean.q.size() / 64 - 1, clean.q.size() / 128}) {
      Problem p = MakeProblem(64, 3, {100, 65}, n_tokens, true, 10);
      p.q[poisoned * 64 + 17] = kNan;
      const std::vector<float> got = Attend(p, 2);
      for (size_t i = 0; i < got.size(); ++i) {
        if (i / 64 == poisoned) {
          ASSERT_TRUE(std::isnan(got[i])) << i;
        } else {
          ASSERT_EQ(got[i], want[i]) << i;
        }
      }
    }
  }
}

TEST_P(Numerics, InfiniteQueriesAreNanNotTraps) {
  for (const int n_tokens : kChunks) {
    Problem p = MakeProblem(64, 3, {100}, n_tokens, false, 11);
    p.q[3] = kInfinity;
    p.q[64 + 5] = -kInfinity;
    const std::vector<float> got = Attend(p, 2);
    for (int i = 0; i < 128; ++i) EXPECT_TRUE(std::isnan(got[i])) << i;
    for (size_t i = 128; i < got.size(); ++i) ASSERT_TRUE(std::isfinite(got[i])) << i;
  }
}

TEST_P(Numerics, MinusInfinityScoresHaveNoWeight) {
  // Positive keys and a query of -inf: every score is -inf, so that nothing is seen.
  for (const int n_tokens : kChunks) {
    Problem p = MakeProblem(64, 3, {100}, n_tokens, false, 12);
    for (int i = 0; i < 100; ++i) {
      for (int d = 0; d < 64; ++d) p.heads[0]->SetKey(i, d, 1.0f);
    }
    std::fill_n(p.q.begin(), 64, -kInfinity);
    const std::vector<float> got = Attend(p, 2);
    const std::vector<double> want = Reference(p);
    for (int i = 0; i < 64; ++i) {
      EXPECT_EQ(got[i], 0.0f) << i;
      EXPECT_EQ(want[i], 0.0) << i;
    }
  }
}

TEST_P(Numerics, NoEntriesGiveZeros) {
  for (const int n_tokens : kChunks) {
    const Problem p = MakeProblem(64, 3, {0, 0, 0}, n_tokens, false, 13);
    for (const float x : Attend(p, 3)) ASSERT_EQ(x, 0.0f);
  }
}

TEST_P(Numerics, ThreadsChangeRoundingOnly) {
  for (const int n_tokens : kChunks) {
    const Problem p = MakeProblem(96, 4, {1000, 3, 0, 130}, n_tokens, true, 14);
    const std::vector<float> one = Attend(p, 1);
    const std::vector<double> want(one.begin(), one.end());
    for (int threads = 2; threads <= 7; ++threads) {
      EXPECT_LE(WorstError(p, Attend(p, threads), want), 1.0) << threads;
    }
    EXPECT_EQ(Attend(p, 3), Attend(p, 3));
  }
}

template <typename T>
class SoftmaxStateTest : public testing::Test {};
using Reals = testing::Types<float, double>;
TYPED_TEST_SUITE(SoftmaxStateTest, Reals);

TYPED_TEST(SoftmaxStateTest, EmptyIsNeutral) {
  using T = TypeParam;
  T vectors[3][2] = {{9, 9}, {3, -6}, {9, 9}};
  SoftmaxState<T> empty{0, 0, vectors[0]};
  ClearState(empty, 2);
  SoftmaxState<T> some{T(-5), T(3), vectors[1]};
  MergeState(some, empty, 2);
  EXPECT_EQ(some.max, T(-5));
  EXPECT_EQ(some.sum, T(3));
  EXPECT_EQ(some.vector[1], T(-6));
  MergeState(empty, some, 2);
  T out[2];
  NormaliseState(empty, 2, out);
  EXPECT_NEAR(out[0], 1, 1e-6);
  EXPECT_NEAR(out[1], -2, 1e-6);

  SoftmaxState<T> other{0, 0, vectors[2]};
  ClearState(other, 2);
  SoftmaxState<T> both = other;
  MergeState(both, other, 2);
  NormaliseState(both, 2, out);
  EXPECT_EQ(out[0], T(0));
  EXPECT_EQ(out[1], T(0));
}

TYPED_TEST(SoftmaxStateTest, MergeIsTheStateOfBoth) {
  using T = TypeParam;
  // Scores (log2) 1 and 2 with values 10 and 20, then 4 with 40.
  T a_vector[1] = {T(0.5 * 10 + 20)};
  T b_vector[1] = {40};
  SoftmaxState<T> a{2, T(1.5), a_vector};
  const SoftmaxState<T> b{4, 1, b_vector};
  MergeState(a, b, 1);
  EXPECT_EQ(a.max, T(4));
  EXPECT_NEAR(a.sum, (2.0 + 4.0 + 16.0) / 16.0, 1e-6);
  T out[1];
  NormaliseState(a, 1, out);
  EXPECT_NEAR(out[0], (2.0 * 10 + 4.0 * 20 + 16.0 * 40) / 22.0, 1e-4);
}

TYPED_TEST(SoftmaxStateTest, NanStays) {
  using T = TypeParam;
  T a_vector[1] = {std::numeric_limits<T>::quiet_NaN()};
  T b_vector[1] = {1};
  SoftmaxState<T> a{1, std::numeric_limits<T>::quiet_NaN(), a_vector};
  SoftmaxState<T> b{2, 1, b_vector};
  SoftmaxState<T> c = b;
  T c_vector[1] = {1};
  c.vector = c_vector;
  MergeState(c, a, 1);
  MergeState(a, b, 1);
  T out[1];
  NormaliseState(a, 1, out);
  EXPECT_TRUE(std::isnan(out[0]));
  NormaliseState(c, 1, out);
  EXPECT_TRUE(std::isnan(out[0]));
}

}  // namespace
}  // namespace pith
