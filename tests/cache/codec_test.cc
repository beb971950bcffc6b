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

// What q8 and q4 may be off by: half a step of an element, and of q4 the one that is largest on the
// other side by a whole one, before least squares makes the sum of squares smaller still.
class QuantisedCodecTest : public testing::TestWithParam<int> {};

TEST_P(QuantisedCodecTest, RowsComeBackFromEverySlotWithinTheirScale) {
  const int head_dim = GetParam();
  const size_t dims = head_dim;
  const auto rows = RandomRows(kPageEntries * dims, 3);
  for (const char* name : {"q8", "q4"}) {
    const bool q8 = std::string_view(name) == "q8";
    for (const auto& codec : {MakeKeyCodec(name, head_dim), MakeValueCodec(name, head_dim)}) {
      ASSERT_EQ(codec->PageBytes() % 64, 0);
      std::vector<std::byte> page(codec->PageBytes(), std::byte{0xff});
      codec->Encode(0, {rows.data(), 5, dims, dims}, 0, page.data());
      codec->Encode(0, {rows.data() + 45 * dims, 19, dims, dims}, 45, page.data());
      codec->Encode(0, {rows.data() + 5 * dims, 40, dims, dims}, 5, page.data());
      std::vector<float> row(dims);
      for (int i = 0; i < kPageEntries; ++i) {
        codec->Decode(0, page.data(), i, row.data());
        double error2 = 0;
        double row2 = 0;
        for (size_t d = 0; d < dims; ++d) {
          const float wanted = rows[i * dims + d];
          error2 += (row[d] - wanted) * (row[d] - wanted);
          row2 += wanted * wanted;
          float largest = 0;  // of its block
          for (size_t j = d / 32 * 32; j < std::min(d / 32 * 32 + 32, dims); ++j) {
            largest = std::max(largest, std::abs(rows[i * dims + j]));
          }
          const float tolerance = q8 ? largest / 127 * 0.501f : INFINITY;
          EXPECT_LE(std::abs(row[d] - wanted), tolerance) << name << i;
        }
        EXPECT_LE(std::sqrt(error2 / row2), q8 ? 0.01 : 0.16) << name << " " << i;
      }
    }
  }
}

TEST_P(QuantisedCodecTest, MoveCopiesOneEntryAndNothingElse) {
  const int head_dim = GetParam();
  const size_t dims = head_dim;
  const auto rows = RandomRows(kPageEntries * dims, 4);
  for (const char* name : {"q8", "q4"}) {
    for (const auto& codec : {MakeKeyCodec(name, head_dim), MakeValueCodec(name, head_dim)}) {
      std::vector<std::byte> from(codec->PageBytes()), to(from.size());
      codec->Encode(0, {rows.data(), kPageEntries, dims, dims}, 0, from.data());
      to = from;
      codec->Move(from.data(), 37, to.data(), 3);
      std::vector<float> moved(dims), original(dims);
      for (int i = 0; i < kPageEntries; ++i) {
        codec->Decode(0, to.data(), i, moved.data());
        codec->Decode(0, from.data(), i == 3 ? 37 : i, original.data());
        ASSERT_EQ(moved, original) << name << " " << i;
      }
    }
  }
}

TEST_P(QuantisedCodecTest, ZerosStayZerosAndNothingWrongBecomesANumber) {
  const int head_dim = GetParam();
  const size_t dims = head_dim;
  for (const char* name : {"q8", "q4"}) {
    const auto codec = MakeKeyCodec(name, head_dim);
    std::vector<std::byte> page(codec->PageBytes());
    std::vector<float> row(dims);
    const auto through = [&](float first) {
      std::vector<float> given(dims);
      given[0] = first;
      codec->Encode(0, {given.data(), 1, dims, dims}, 9, page.data());
      codec->Decode(0, page.data(), 9, row.data());
    };
    through(0.0f);
    EXPECT_EQ(row, std::vector<float>(dims)) << name;
    through(1e-42f);
    EXPECT_EQ(row, std::vector<float>(dims)) << name;
    for (const float bad : {NAN, -NAN, INFINITY, -INFINITY, 1e8f}) {
      through(bad);
      EXPECT_TRUE(std::isnan(row[0])) << name << " " << bad;
    }
    through(3.0f);
    EXPECT_NEAR(row[0], 3.0f, 0.01f) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(HeadDims, QuantisedCodecTest, testing::Values(8, 64, 80, 128, 200));

TEST(Codec, QuantisedRowsTakeTheBytesTheySay) {
  EXPECT_EQ(MakeKeyCodec("q8", 64)->PageBytes(), 64 * 68);
  EXPECT_EQ(MakeValueCodec("q8", 64)->PageBytes(), 64 * 68);
  EXPECT_EQ(MakeKeyCodec("q4", 64)->PageBytes(), 64 * 36);
  EXPECT_EQ(MakeValueCodec("q4", 128)->PageBytes(), 64 * 72);
  EXPECT_EQ(MakeKeyCodec("q4", 80)->PageBytes(), 64 * (40 + 6));
  EXPECT_EQ(MakeValueCodec("q4", 80)->PageBytes(), 64 * (48 + 6));
  EXPECT_THROW(MakeKeyCodec("q8", 60), Error);
  EXPECT_THROW(MakeValueCodec("q4", 264), Error);
}

// One large element is what rotation is for: four bits of the row as it is would lose the others.
TEST(Codec, RotationSpreadsWhatIsLarge) {
  std::vector<float> row = RandomRows(64, 5), back(64);
  row[11] = 100.0f;
  const auto codec = MakeKeyCodec("q4", 64);
  std::vector<std::byte> page(codec->PageBytes());
  codec->Encode(0, {row.data(), 1, 64, 64}, 0, page.data());
  codec->Decode(0, page.data(), 0, back.data());
  double error2 = 0;
  for (int d = 0; d < 64; ++d) error2 += (row[d] - back[d]) * (row[d] - back[d]);
  EXPECT_LE(std::sqrt(error2 / 64), 1.6);  // a step of row / 8 would lose elements of size 3
}

// Of rows that have a large part in common, in frames that say what it is, and where it differs.
TEST_P(QuantisedCodecTest, FramesLeaveTheBitsToWhatDiffers) {
  const int head_dim = GetParam();
  const size_t dims = head_dim;
  constexpr int kHeads = 2;
  KeyFrames frames;
  for (const float x : RandomRows(kHeads * dims, 6)) {
    frames.centres.push_back(20 * x);
    frames.spreads.push_back(std::exp2(std::round(x / 2)));
  }
  for (const char* name : {"q8", "q4"}) {
    const auto plain = MakeKeyCodec(name, head_dim);
    const auto framed = MakeKeyCodec(name, head_dim, nullptr, &frames);
    EXPECT_EQ(framed->PageBytes(), plain->PageBytes());
    EXPECT_EQ(plain->Format(1).centre, nullptr);
    for (int head = 0; head < kHeads; ++head) {
      const float* centre = &frames.centres[head * dims];
      const float* spread = &frames.spreads[head * dims];
      std::vector<float> rows = RandomRows(kPageEntries * dims, 7), row(dims), x(dims);
      for (size_t i = 0; i < rows.size(); ++i) {
        rows[i] = centre[i % dims] + spread[i % dims] * rows[i];
      }
      // The mean square of an error, in units of the spread.
      const auto error = [&](const Codec& codec) {
        std::vector<std::byte> page(codec.PageBytes());
        codec.Encode(head, {rows.data(), kPageEntries, dims, dims}, 0, page.data());
        double sum = 0;
        for (int i = 0; i < kPageEntries; ++i) {
          codec.Decode(head, page.data(), i, row.data());
          for (size_t d = 0; d < dims; ++d) {
            sum += std::pow((row[d] - rows[i * dims + d]) / spread[d], 2);
          }
        }
        return sum / static_cast<double>(rows.size());
      };
      EXPECT_LE(error(*framed), name[1] == '8' ? 2e-3 : 0.25) << name;
      EXPECT_LE(error(*framed), error(*plain) / 50) << name;
    }
  }
}

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
