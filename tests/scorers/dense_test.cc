// The dense layer and the gelu of surrogates against double precision, at every SIMD level.
#include "scorers/dense.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "attention/attention.h"

namespace pith {
namespace {

constexpr double kUnit = 0x1p-24;  // half a unit in the last place of 1

class ForcedLevel {
 public:
  explicit ForcedLevel(const std::string& name) : taken_(ForceSimdLevel(name)) {}
  ~ForcedLevel() { ForceSimdLevel(""); }
  bool taken() const { return taken_; }

 private:
  bool taken_;
};

// Random numbers, such as f16 has if `as_half`.
std::vector<float> Numbers(size_t n, uint64_t seed, bool as_half) {
  std::mt19937_64 random(seed);
  std::vector<float> values(n);
  for (float& value : values) {
    const auto bits = static_cast<int>(random() % 2048) - 1024;
    value = static_cast<float>(bits) / 1024;
    if (!as_half) value += static_cast<float>(random() % 1000) * 1e-6f;
  }
  return values;
}

// The largest error of Apply in units of what rounding allows: a sum of n products has an error of
// sqrt(n) half units of the sum of their sizes, up to a factor of 4 (and more than that never).
double WorstError(size_t n_rows, size_t n_in, size_t n_out, bool as_half, bool rows_first) {
  const size_t stride = n_in + 5;
  const std::vector<float> rows = Numbers(n_rows * stride, 1, false);
  const std::vector<float> weight = Numbers(n_out * n_in, 2, as_half);
  const std::vector<float> bias = Numbers(n_out, 3, false);
  const Dense dense(weight, bias);
  EXPECT_EQ(dense.is_half(), as_half);
  EXPECT_EQ(dense.n_in(), n_in);
  EXPECT_EQ(dense.n_out(), n_out);
  const size_t row_step = rows_first ? 1 : n_out;
  const size_t out_step = rows_first ? n_rows : 1;
  std::vector<float> out(n_rows * n_out + 1, NAN);
  dense.Apply({rows.data(), n_rows, n_in, stride}, out.data(), row_step, out_step);
  EXPECT_TRUE(std::isnan(out.back()));
  double worst = 0;
  for (size_t r = 0; r < n_rows; ++r) {
    for (size_t o = 0; o < n_out; ++o) {
      double want = bias[o];
      double size = std::abs(want);
      for (size_t i = 0; i < n_in; ++i) {
        const double product = double{weight[o * n_in + i]} * rows[r * stride + i];
        want += product;
        size += std::abs(product);
      }
      const double error = std::abs(out[r * row_step + o * out_step] - want) /
                           (4 * std::sqrt(static_cast<double>(n_in + 1)) * kUnit * size);
      if (!(error <= worst)) worst = error;  // NaN stays
      if (std::isnan(worst)) return worst;
    }
  }
  return worst;
}

class Level : public ::testing::TestWithParam<std::string> {};

TEST_P(Level, DenseIsTheProductForAllRemainders) {
  const ForcedLevel level(GetParam());
  ASSERT_TRUE(level.taken());
  for (const bool as_half : {false, true}) {
    for (const size_t n_rows : {1, 2, 3, 4, 7}) {
      for (size_t n_in = 1; n_in <= 35; ++n_in) {
        for (const size_t n_out : {1, 3, 4, 5, 8, 9}) {
          ASSERT_LE(WorstError(n_rows, n_in, n_out, as_half, true), 1.0)
              << n_rows << " rows, " << n_in << " -> " << n_out;
        }
      }
    }
    // Panels and parts of rows with remainders; the shapes of SmolLM2-135M.
    for (const size_t n_rows : {1, 3, 100}) {
      for (const size_t n_in : {640, 641, 1300}) {
        ASSERT_LE(WorstError(n_rows, n_in, 131, as_half, false), 1.0)
            << n_rows << " rows, " << n_in;
      }
      ASSERT_LE(WorstError(n_rows, 576, 72, as_half, false), 1.0) << n_rows << " rows";
      ASSERT_LE(WorstError(n_rows, 72, 3, as_half, true), 1.0) << n_rows << " rows";
    }
  }
}

TEST_P(Level, DenseAddsUpWhatIsThere) {
  const ForcedLevel level(GetParam());
  ASSERT_TRUE(level.taken());
  // What lies behind the rows must not count, even if it is no number.
  const Dense dense(std::vector<float>{1, 2, 3}, std::vector<float>{10});
  const std::vector<float> rows = {1, 1, 1, NAN, 2, NAN, 2, NAN};
  float out[2];
  dense.Apply({rows.data(), 2, 3, 4}, out, 1, 1);
  EXPECT_EQ(out[0], 16);
  EXPECT_TRUE(std::isnan(out[1]));
}

TEST_P(Level, GeluHasItsBound) {
  const ForcedLevel level(GetParam());
  ASSERT_TRUE(level.taken());
  std::vector<float> x;
  for (int i = -200000; i <= 200000; ++i) x.push_back(static_cast<float>(i) * 1e-4f);
  for (float tiny = 1e-3f; tiny > 1e-40f; tiny /= 3) {
    x.push_back(tiny);
    x.push_back(-tiny);
  }
  x.insert(x.end(), {0.0f, -0.0f, 1e10f, -1e10f, 3e38f, -3e38f});
  std::vector<float> y = x;
  Gelu(y);
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double want = 0.5 * x[i] * std::erfc(-double{x[i]} / std::sqrt(2.0));
    const double error = std::abs(y[i] - want) / (1.5e-7 + kUnit * std::abs(x[i]));
    if (!(error <= worst)) worst = error;
    ASSERT_LE(worst, 1.0) << x[i];
  }
  EXPECT_GT(worst, 0.1);  // the bound says something
}

TEST_P(Level, GeluKeepsNanAndInfinityAndTouchesNothingElse) {
  const ForcedLevel level(GetParam());
  ASSERT_TRUE(level.taken());
  for (size_t n = 0; n <= 33; ++n) {
    std::vector<float> values(n + 1, 1.0f);
    Gelu({values.data(), n});
    for (size_t i = 0; i < n; ++i) EXPECT_NEAR(values[i], 0.8413447, 3e-7);
    EXPECT_EQ(values[n], 1.0f);
  }
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> values = {NAN, kInfinity, -kInfinity};
  Gelu(values);
  EXPECT_TRUE(std::isnan(values[0]));
  EXPECT_EQ(values[1], kInfinity);
  EXPECT_EQ(values[2], 0.0f);
}

INSTANTIATE_TEST_SUITE_P(Simd, Level, ::testing::ValuesIn(AvailableSimdLevels()),
                         [](const auto& level) {
                           std::string name = level.param;
                           for (char& c : name) {
                             if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
                           }
                           return name;
                         });

TEST(Dense, KnowsWhatF16Holds) {
  const std::vector<float> bias = {0};
  EXPECT_TRUE(Dense(std::vector<float>{0.5f, -65504.0f, 0x1p-24f}, bias).is_half());
  EXPECT_FALSE(Dense(std::vector<float>{0.1f}, bias).is_half());
  EXPECT_FALSE(Dense(std::vector<float>{65536.0f}, bias).is_half());
  EXPECT_FALSE(Dense(std::vector<float>{0x1p-26f}, bias).is_half());
}

}  // namespace
}  // namespace pith
