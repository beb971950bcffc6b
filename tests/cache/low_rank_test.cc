#include "cache/low_rank.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "cache/low_rank_codec.h"
#include "pith/error.h"
#include "tools/expect_error.h"
#include "tools/random_codebooks.h"

namespace pith {
namespace {

using testing::ExpectError;

constexpr int kDim = 32;

std::vector<float> RandomRows(int n, uint32_t seed) {
  std::minstd_rand random(seed);
  std::vector<float> rows(static_cast<size_t>(n) * kDim);
  for (float& x : rows) x = static_cast<float>(random() % 65536) / 32768.0f - 1.0f;
  return rows;
}

LowRankBasis MakeBasis(int rank, const PqCodebooks& books) {
  return {rank, books.centre, books.map, books.energy};
}

double Apart(const float* a, const float* b) {
  double sum = 0;
  for (int d = 0; d < kDim; ++d) sum += (double{a[d]} - b[d]) * (double{a[d]} - b[d]);
  return std::sqrt(sum);
}

TEST(LowRank, NamesAreReadAndWritten) {
  for (const char* name : {"lr8", "lr32", "lr48q4", "lr256"}) {
    ASSERT_TRUE(ParseLowRank(name)) << name;
    EXPECT_EQ(ParseLowRank(name)->name(), name);
  }
  for (const char* name : {"lr", "lr0", "lr08", "lr-8", "lr257", "lr8q8", "lrq4", "lr8q", "Lr8"}) {
    EXPECT_FALSE(ParseLowRank(name)) << name;
  }
}

TEST(LowRank, KeysOfTheStrongDirectionsAndTheCentreComeBack) {
  const PqCodebooks books = testing::RandomCodebooks(1, 1, kDim, {}, 5, 3);
  const auto strength = [&](int i) { return books.energy[static_cast<size_t>(i)]; };
  for (const int rank : {8, 16, kDim}) {
    const LowRankBasis basis = MakeBasis(rank, books);
    std::vector<float> energies = books.energy;
    std::ranges::sort(energies, std::greater());
    const float least_kept = energies[static_cast<size_t>(rank) - 2];
    std::vector<float> coefficients(static_cast<size_t>(rank)), found(kDim);
    for (int i = -1; i < kDim; ++i) {  // the centre alone, then with each direction
      std::vector<float> key = books.centre;
      for (int d = 0; i >= 0 && d < kDim; ++d) key[d] += 3 * books.map[i * kDim + d];
      basis.Coefficients(key.data(), coefficients.data());
      basis.Key(coefficients.data(), found.data());
      const bool kept = i < 0 || rank == kDim || strength(i) >= least_kept;
      if (kept) {
        EXPECT_LT(Apart(key.data(), found.data()), 1e-4) << rank << " " << i;
      } else {
        EXPECT_GT(Apart(key.data(), found.data()), 0.5) << rank << " " << i;
      }
    }
  }
}

TEST(LowRank, CodesAreThoseOfTheCoefficients) {
  const PqCodebooks books = testing::RandomCodebooks(1, 2, kDim, {}, 5, 4);
  const auto rows = RandomRows(kPageEntries, 5);
  for (const char* name : {"lr16", "lr24q4", "lr32"}) {
    const LowRankShape shape = *ParseLowRank(name);
    const auto codec = MakeKeyCodec(name, kDim, &books);
    EXPECT_EQ(codec->name(), name);
    EXPECT_EQ(codec->PageBytes(), 2 * KeyBlockBytes(shape.coefficients, shape.rank));
    EXPECT_EQ(codec->CodebookBytes(), 2 * LowRankBasis::Bytes(shape.rank, kDim));
    const LowRankBasis basis(shape.rank, std::span(books.centre).subspan(kDim),
                             std::span(books.map).subspan(kDim * kDim),
                             std::span(books.energy).subspan(kDim));
    std::vector<std::byte> page(codec->PageBytes(), std::byte{0xff});
    codec->Encode(1, {rows.data(), kPageEntries, kDim, kDim}, 0, page.data());
    std::vector<float> coefficients(static_cast<size_t>(shape.rank)), want(kDim), found(kDim);
    for (int i = 0; i < kPageEntries; ++i) {
      basis.Coefficients(&rows[i * kDim], coefficients.data());
      basis.Key(coefficients.data(), want.data());
      codec->Decode(1, page.data(), i, found.data());
      const double step = shape.coefficients == CodecId::kQ8 ? 0.02 : 0.15;
      EXPECT_LT(Apart(found.data(), want.data()), step * Apart(want.data(), &books.centre[kDim]))
          << name << " " << i;
    }
    codec->Move(page.data(), 41, page.data(), 2);
    codec->Decode(1, page.data(), 41, want.data());
    codec->Decode(1, page.data(), 2, found.data());
    EXPECT_EQ(found, want);
  }
}

TEST(LowRank, WhatIsMissingIsSaid) {
  PqCodebooks books = testing::RandomCodebooks(1, 1, kDim, {"pq4x16"}, 1, 6);
  books.energy.clear();
  ExpectError(ErrorCode::kInvalidArgument, "these codebooks do not say which count",
              [&] { MakeKeyCodec("lr16", kDim, &books); });
  ExpectError(ErrorCode::kInvalidArgument, "expected 1024 and 32 for 16 directions",
              [&] { MakeBasis(16, books); });
}

}  // namespace
}  // namespace pith
