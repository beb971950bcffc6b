#include "model/split_q4_1.h"

#include <ggml.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace pith {
namespace {

std::vector<float> Dequantise(ggml_type type, const std::vector<std::byte>& bytes, size_t n) {
  std::vector<float> out(n);
  ggml_get_type_traits(type)->to_float(bytes.data(), out.data(), static_cast<int64_t>(n));
  return out;
}

TEST(SplitQ41, PartsAddUpToTheMatrix) {
  constexpr int64_t kIn = 256, kOut = 24;
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0.1f, 0.7f);
  std::vector<float> weights(kIn * kOut);
  for (float& w : weights) w = normal(random);
  std::vector<std::byte> q4_1(ggml_row_size(GGML_TYPE_Q4_1, kIn) * kOut);
  ggml_quantize_chunk(GGML_TYPE_Q4_1, weights.data(), q4_1.data(), 0, kOut, kIn, nullptr);

  std::vector<std::byte> q4_0(ggml_row_size(GGML_TYPE_Q4_0, kIn) * kOut);
  std::vector<float> rest(kIn * kOut / kQ4BlockWeights);
  SplitQ41(q4_1, q4_0, rest);

  const auto whole = Dequantise(GGML_TYPE_Q4_1, q4_1, weights.size());
  const auto part = Dequantise(GGML_TYPE_Q4_0, q4_0, weights.size());
  for (size_t i = 0; i < whole.size(); ++i) {
    const float sum = part[i] + rest[i / kQ4BlockWeights];
    // A few roundings of numbers no larger than 15 steps of the block.
    EXPECT_TRUE(std::abs(sum - whole[i]) <= 8e-6f) << i << ": " << sum << " against " << whole[i];
  }
}

}  // namespace
}  // namespace pith
