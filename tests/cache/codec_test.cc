#include "cache/codec.h"

#include <ggml.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "cache/layout.h"
#include "pith/error.h"

namespace pith {
namespace {

class CodecTest : public testing::TestWithParam<int> {};

std::vector<float> RandomRows(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> rows(n);
  for (float& x : rows) x = normal(random);
  return rows;
}

// Half precision keeps 11 bits: an error of at most 2^-11 of the value, or half the least denormal.
void ExpectNearF16(float found, float wanted) {
  const float tolerance = std::max(std::ldexp(std::abs(wanted), -11), std::ldexp(1.0f, -25));
  EXPECT_TRUE(std::abs(found - wanted) <= tolerance) << found << " against " << wanted;
}

TEST_P(CodecTest, RowsComeBackFromEverySlot) {
  const int head_dim = GetParam();
  const auto rows = RandomRows(size_t{kPageEntries} * head_dim * 2, 1);
  for (const auto& codec : {MakeKeyCodec("f16", head_dim), MakeValueCodec("f16", head_dim)}) {
    ASSERT_EQ(codec->PageBytes(), size_t{128} * head_dim);
    std::vector<std::byte> page(codec->PageBytes());
    const MatrixView<const float> view{rows.data(), kPageEntries, static_cast<size_t>(head_dim),
                                       static_cast<size_t>(2 * head_dim)};  // strided
    codec->Encode(0, {view.data, 5, view.cols, view.stride}, 0, page.data());
    codec->Encode(0, {view.row(5), 40, view.cols, view.stride}, 5, page.data());
    codec->Encode(0, {view.row(45), 19, view.cols, view.stride}, 45, page.data());
    std::vector<float> row(head_dim);
    for (int i = 0; i < kPageEntries; ++i) {
      codec->Decode(0, page.data(), i, row.data());
      for (int d = 0; d < head_dim; ++d) ExpectNearF16(row[d], view.row(i)[d]);
    }
  }
}

TEST_P(CodecTest, MoveCopiesOneEntryAndNothingElse) {
  const int head_dim = GetParam();
  const auto rows = RandomRows(size_t{kPageEntries} * head_dim, 2);
  const size_t d = static_cast<size_t>(head_dim);
  for (const auto& codec : {MakeKeyCodec("f16", head_dim), MakeValueCodec("f16", head_dim)}) {
    std::vector<std::byte> from(codec->PageBytes()), to(from.size(), std::byte{0x55});
    codec->Encode(0, {rows.data(), kPageEntries, d, d}, 0, from.data());
    codec->Move(from.data(), 37, to.data(), 3);
    std::vector<float> moved(d), original(d);
    codec->Decode(0, to.data(), 3, moved.data());
    codec->Decode(0, from.data(), 37, original.data());
    EXPECT_EQ(moved, original);
    const auto untouched = std::count(to.begin(), to.end(), std::byte{0x55});
    EXPECT_GE(untouched, static_cast<ptrdiff_t>(to.size() - 2 * d));
    codec->Move(from.data(), 63, from.data(), 0);
    codec->Decode(0, from.data(), 0, moved.data());
    codec->Decode(0, from.data(), 63, original.data());
    EXPECT_EQ(moved, original);
  }
}

INSTANTIATE_TEST_SUITE_P(HeadDims, CodecTest, testing::Values(8, 64, 80, 96, 128, 256));

TEST(Codec, UnknownNamesAreRefused) {
  EXPECT_THROW(MakeKeyCodec("f17", 64), Error);
  EXPECT_THROW(MakeValueCodec("", 64), Error);
}

TEST(Codec, KeyLayoutIsDimensionMajorInBlocksOf32) {
  constexpr int kDim = 64;
  std::vector<float> rows(kPageEntries * kDim);
  for (int i = 0; i < kPageEntries; ++i) {
    for (int d = 0; d < kDim; ++d) rows[i * kDim + d] = static_cast<float>(i * 16 + d % 16);
  }
  std::vector<std::byte> page(F16KeyBytes(kDim));
  MakeKeyCodec("f16", kDim)->Encode(0, {rows.data(), kPageEntries, kDim, kDim}, 0, page.data());
  std::vector<F16> half(page.size() / 2);
  std::memcpy(half.data(), page.data(), page.size());
  for (int i = 0; i < kPageEntries; ++i) {
    for (int d = 0; d < kDim; ++d) {
      ASSERT_EQ(half[(i / 32) * kDim * 32 + d * 32 + i % 32],
                ggml_fp32_to_fp16(rows[i * kDim + d]));
    }
  }
}

}  // namespace
}  // namespace pith
