#include "model/split_q4_1.h"

#include <ggml.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "attention/attention.h"

namespace pith {
namespace {

std::vector<float> Dequantise(ggml_type type, const std::vector<std::byte>& bytes, size_t n) {
  std::vector<float> out(n);
  ggml_get_type_traits(type)->to_float(bytes.data(), out.data(), static_cast<int64_t>(n));
  return out;
}

std::vector<float> Normal(std::mt19937& random, float mean, size_t n) {
  std::normal_distribution<float> normal(mean, 0.7f);
  std::vector<float> out(n);
  for (float& x : out) x = normal(random);
  return out;
}

TEST(SplitQ41, PartsAddUpToTheMatrix) {
  constexpr int64_t kIn = 256, kOut = 24, kBlocks = kIn / kQ4BlockWeights;
  std::mt19937 random(4);
  const std::vector<float> weights = Normal(random, 0.1f, kIn * kOut);
  std::vector<std::byte> q4_1(ggml_row_size(GGML_TYPE_Q4_1, kIn) * kOut);
  ggml_quantize_chunk(GGML_TYPE_Q4_1, weights.data(), q4_1.data(), 0, kOut, kIn, nullptr);

  std::vector<std::byte> q4_0(ggml_row_size(GGML_TYPE_Q4_0, kIn) * kOut);
  std::vector<ggml_fp16_t> rest(RestElements(kIn, kOut), ggml_fp16_t{0x7e00});  // NaN
  SplitQ41(q4_1, kIn, q4_0, rest);

  const auto whole = Dequantise(GGML_TYPE_Q4_1, q4_1, weights.size());
  const auto part = Dequantise(GGML_TYPE_Q4_0, q4_0, weights.size());
  const auto rest_of = [&](int64_t row, int64_t block) {
    return ggml_fp16_to_fp32(
        rest[(row / kRestPanel * kBlocks + block) * kRestPanel + row % kRestPanel]);
  };
  for (int64_t row = 0; row < kOut; ++row) {
    for (int64_t i = 0; i < kIn; ++i) {
      const float r = rest_of(row, i / kQ4BlockWeights);
      const float sum = part[row * kIn + i] + r;
      // The rounding of the rest, and a few of numbers no larger than 15 steps of the block.
      const float tolerance = std::abs(r) * 0x1p-11f + 8e-6f;
      EXPECT_TRUE(std::abs(sum - whole[row * kIn + i]) <= tolerance)
          << row << ", " << i << ": " << sum << " against " << whole[row * kIn + i];
    }
  }
  for (int64_t row = kOut; row < 2 * kRestPanel; ++row) {
    for (int64_t block = 0; block < kBlocks; ++block) EXPECT_EQ(rest_of(row, block), 0.0f);
  }
}

struct Product {
  int64_t n_in;
  int64_t n_out;
  size_t n_tokens;
  int n_threads;
};

// Against double precision, with rows of x and y that lie apart.
void CheckRestProduct(const Product& p) {
  SCOPED_TRACE(testing::Message() << CurrentSimdLevel() << ": " << p.n_in << " -> " << p.n_out
                                  << ", " << p.n_tokens << " tokens, " << p.n_threads
                                  << " threads");
  constexpr size_t kGap = 3;
  const int64_t n_blocks = p.n_in / kQ4BlockWeights;
  std::mt19937 random(7);
  const size_t x_stride = static_cast<size_t>(p.n_in) + kGap;
  const size_t y_stride = static_cast<size_t>(p.n_out) + kGap;
  const std::vector<float> x = Normal(random, 0.2f, p.n_tokens * x_stride);
  const std::vector<float> before = Normal(random, 0.0f, p.n_tokens * y_stride);
  const std::vector<float> values = Normal(random, 0.1f, RestElements(p.n_in, p.n_out));
  std::vector<ggml_fp16_t> rest(values.size());
  ggml_fp32_to_fp16_row(values.data(), rest.data(), static_cast<int64_t>(rest.size()));

  std::vector<float> y = before;
  for (int thread = 0; thread < p.n_threads; ++thread) {
    AddRestProduct(rest.data(), {x.data(), p.n_tokens, static_cast<size_t>(p.n_in), x_stride},
                   {y.data(), p.n_tokens, static_cast<size_t>(p.n_out), y_stride}, thread,
                   p.n_threads);
  }

  for (size_t t = 0; t < p.n_tokens; ++t) {
    for (size_t o = 0; o < y_stride; ++o) {
      const float was = before[t * y_stride + o];
      const float is = y[t * y_stride + o];
      if (o >= static_cast<size_t>(p.n_out)) {
        EXPECT_EQ(is, was) << "beyond the row";
        continue;
      }
      double sum = was, size = std::abs(was);
      for (int64_t i = 0; i < p.n_in; ++i) {
        const auto row = static_cast<int64_t>(o);
        const double r = ggml_fp16_to_fp32(
            rest[(row / kRestPanel * n_blocks + i / kQ4BlockWeights) * kRestPanel +
                 row % kRestPanel]);
        const double term = r * x[t * x_stride + i];
        sum += term;
        size += std::abs(term);
      }
      const double tolerance = static_cast<double>(n_blocks + 8) * 0x1p-24 * size;
      ASSERT_TRUE(std::abs(is - sum) <= tolerance)
          << t << ", " << o << ": " << is << " for " << sum;
    }
  }
}

TEST(SplitQ41, RestIsAddedAtEverySimdLevel) {
  for (const std::string& level : AvailableSimdLevels()) {
    ASSERT_TRUE(ForceSimdLevel(level));
    for (const int64_t n_out : {8, 16, 40, 64}) {
      for (const size_t n_tokens : {1, 2, 3, 4, 5, 8, 39, 70}) {
        for (const int n_threads : {1, 2, 5}) CheckRestProduct({96, n_out, n_tokens, n_threads});
      }
    }
    CheckRestProduct({32, 8, 1, 1});
    CheckRestProduct({1536, 576, 2, 2});
  }
  ForceSimdLevel("");
}

}  // namespace
}  // namespace pith
