// Scores by look-up in tables, and codes converted for many queries, against the double-precision
// reference over the decoded keys.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "attention/kernels.h"
#include "cache/pq_key_codec.h"
#include "pith/error.h"
#include "problem.h"
#include "tools/random_codebooks.h"

namespace pith {
namespace {

// One head's codebook: a map that is no rotation, a centre, centroids that say little of the keys,
// which is all the same to the kernels.
PqCodebook MakeCodebook(const std::string& name, int head_dim, uint32_t seed) {
  std::minstd_rand random(seed);
  const auto next = [&] { return static_cast<float>(random() % 65536) / 32768.0f - 1.0f; };
  const PqShape shape = *ParsePqShape(name);
  std::vector<float> centre(head_dim), map(head_dim * head_dim);
  std::vector<float> centroids(head_dim * shape.n_centroids());
  for (float& x : centre) x = next();
  for (float& x : centroids) x = 2.0f * next();
  for (int i = 0; i < head_dim * head_dim; ++i) {
    map[i] = (i % (head_dim + 1) == 0 ? 1.0f : 0.0f) + 0.5f * next() / std::sqrt(head_dim);
  }
  return {shape, centre, map, centroids};
}

// What an entry of a query's tables errs by, as codes-inl.h says.
double EntryError(const Problem& p, const RowFormat& keys, const float* q) {
  const int head_dim = p.shape.head_dim;
  const int width = head_dim / keys.n_subspaces;
  const int n_centroids = PqCentroids(keys.id);
  const bool words = keys.id == CodecId::kPq8 && !HasVnni();
  const int n_summed = words ? keys.n_subspaces : keys.id == CodecId::kPq8 ? 1 : 4;
  double largest = 0;
  double sum = 0;
  for (int m = 0; m < keys.n_subspaces; ++m) {
    double least = INFINITY;
    double most = -INFINITY;
    for (int k = 0; k < n_centroids; ++k) {
      double product = 0;
      for (int i = m * width; i < (m + 1) * width; ++i) {
        double of_map = 0;
        for (int d = 0; d < head_dim; ++d) of_map += keys.codebook[d * head_dim + i] * double{q[d]};
        product += of_map * keys.codebook[head_dim * head_dim + i * n_centroids + k];
      }
      least = std::min(least, product);
      most = std::max(most, product);
    }
    sum = (m % n_summed == 0 ? 0 : sum) + most - least;
    largest = std::max(largest, sum);
  }
  const int steps = words ? 65535 - keys.n_subspaces : keys.id == CodecId::kPq8 ? 255 : 253;
  return largest / steps * p.shape.scale / 2;
}

double WorstCodesError(const Problem& p, const CodecNames& codecs, bool rounds,
                       const std::vector<float>& got, const std::vector<double>& want) {
  const int head_dim = p.shape.head_dim;
  const RowFormat keys = codecs.codes->Format(0);
  double worst = 0;
  for (size_t row = 0; row * head_dim < got.size(); ++row) {
    const float* q = &p.q[row * head_dim];
    double q2 = 0;
    for (int d = 0; d < head_dim; ++d) q2 += double{q[d]} * q[d];
    double tolerance = 2 * Tolerance(p.shape, std::sqrt(q2), 4 * std::sqrt(head_dim), 1.5, 1000);
    // Scores err as a random walk of their entries' roundings; a weight by twice that.
    if (rounds) tolerance += 4 * std::sqrt(keys.n_subspaces) * EntryError(p, keys, q);
    // As in codecs_test.cc.
    if (codecs.values == "q8") tolerance += 4 * std::sqrt(kPageEntries) / 65534 * 2.5;
    if (codecs.values == "q4") tolerance += 4 * std::sqrt(kPageEntries / 4.0) / 126 * 0.58;
    for (size_t i = row * head_dim; i < (row + 1) * head_dim; ++i) {
      if (std::isnan(want[i]) != std::isnan(got[i])) return INFINITY;
      if (std::isnan(want[i])) continue;
      const double error = std::fabs(got[i] - want[i]);
      if (!(error <= tolerance * worst)) worst = error / tolerance;
    }
  }
  return worst;
}

class Codes : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(level_.taken()); }
  ForcedLevel level_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Levels, Codes, ::testing::ValuesIn(AvailableSimdLevels()),
                         [](const auto& param) { return param.param; });

TEST_P(Codes, EveryShapeMatchesReference) {
  struct Case {
    const char* name;
    int head_dim;
  };
  const bool best = GetParam() == AvailableSimdLevels().front();
  const std::vector<int64_t> counts = {0, 1, 33, 64, 97};
  int index = 0;
  double worst = 0;
  for (const Case& c : {Case{"pq8x16", 64},
                        {"pq8x4", 64},
                        {"pq8x2", 80},
                        {"pq8x16", 128},
                        {"pq4x32", 64},
                        {"pq4x16", 80},
                        {"pq4x64", 128},
                        {"pq4x2", 8}}) {
    for (const char* values : {"f16", "q8", "q4"}) {
      for (const int n_tokens : {1, 2, 131}) {
        ++index;
        if (index % kEvery != 0 || (!best && index % 4 != 0)) continue;
        const int group = n_tokens > 2 ? 1 : 1 + index % 8;
        const CodecNames codecs = {c.name, values,
                                   std::make_shared<PqKeyCodec>(std::vector<PqCodebook>{
                                       MakeCodebook(c.name, c.head_dim, index)})};
        const Problem p =
            MakeProblem(c.head_dim, group, counts, n_tokens, index % 2 == 0, index, 1.0f, codecs);
        const double error = WorstCodesError(p, codecs, Rounding(codecs, n_tokens * group).queries,
                                             Attend(p, 1 + index % 3), Reference(p));
        worst = std::max(worst, error);
        EXPECT_LE(error, 1.0) << c.name << " " << values << " head_dim " << c.head_dim << " group "
                              << group << " n_tokens " << n_tokens;
      }
    }
  }
  RecordProperty("worst_error", std::to_string(worst));
}

// What a score errs by beyond rounding to f32 is less than what codes-inl.h says.
TEST_P(Codes, ScoresStayWithinTheirBound) {
  struct Case {
    const char* name;
    int head_dim;
  };
  for (const Case& c :
       {Case{"pq8x16", 64}, {"pq8x2", 80}, {"pq4x32", 64}, {"pq4x10", 80}, {"pq4x32", 128}}) {
    for (const int group : {1, 3, 5}) {
      if (CurrentKernels().score == nullptr) continue;
      const CodecNames codecs = {c.name, "f16",
                                 std::make_shared<PqKeyCodec>(std::vector<PqCodebook>{
                                     MakeCodebook(c.name, c.head_dim, group)})};
      const Problem p = MakeProblem(c.head_dim, group, {97}, 1, false, 3, 1.0f, codecs);
      const RowFormat keys = codecs.codes->Format(0);
      double worst = 0;
      CompareScores(p, [&](const float* q, const std::vector<float>&, float got, double want) {
        // Products of a query and a key, and their sums, are of this size.
        const double rounding = 2e-6 * 4 * c.head_dim * p.shape.scale;
        const double error =
            std::fabs(got - want) / (keys.n_subspaces * EntryError(p, keys, q) + rounding);
        if (!(error <= worst)) worst = error;
      });
      EXPECT_LE(worst, 1.0) << c.name << " " << c.head_dim << " " << group;
    }
  }
}

// Keys that are coefficients: one query rounds its products with the directions to integers, many
// do not (quantised_keys-inl.h).
TEST_P(Codes, CoefficientsMatchReference) {
  struct Case {
    const char* name;
    int head_dim;
  };
  for (const Case& c :
       {Case{"lr32", 64}, {"lr8", 80}, {"lr64", 64}, {"lr48q4", 64}, {"lr16q4", 128}}) {
    const PqCodebooks books = testing::RandomCodebooks(1, 1, c.head_dim, {}, 2, 7);
    const CodecNames codecs = {c.name, "f16", MakeKeyCodec(c.name, c.head_dim, &books)};
    const bool q4 = codecs.codes->Format(0).id == CodecId::kQ4;
    for (const int n_tokens : {1, 131}) {
      const Problem p =
          MakeProblem(c.head_dim, 2, {97, 0, 64}, n_tokens, n_tokens > 1, 5, 1.0f, codecs);
      const std::vector<float> got = Attend(p, 2);
      const std::vector<double> want = Reference(p);
      const bool rounds = Rounding(codecs, n_tokens * 2).queries;
      double worst = 0;
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_EQ(std::isnan(got[i]), std::isnan(want[i]));
        if (!std::isnan(want[i])) worst = std::max(worst, std::fabs(got[i] - want[i]));
      }
      EXPECT_LE(worst, !rounds ? 2e-5 : q4 ? 0.03 : 0.01) << c.name << " " << n_tokens;
    }
  }
}

TEST_P(Codes, QueriesThatAreNoNumbersStayVisible) {
  for (const std::string name : {"pq8x16", "pq4x32"}) {
    for (const int n_tokens : {1, 131}) {
      const CodecNames codecs = {
          name, "f16",
          std::make_shared<PqKeyCodec>(std::vector<PqCodebook>{MakeCodebook(name, 64, 1)})};
      Problem p = MakeProblem(64, 1, {70, 40}, n_tokens, false, 1, 1.0f, codecs);
      p.q[37] = NAN;
      const std::vector<float> out = Attend(p, 1);
      EXPECT_TRUE(std::isnan(out[0])) << name;
      EXPECT_FALSE(std::isnan(out[64])) << name;
    }
  }
}

TEST(PqKeyCodec, CodesComeBackFromEverySlotAndMove) {
  std::minstd_rand random(3);
  std::vector<float> rows(kPageEntries * 64);
  for (float& x : rows) x = static_cast<float>(random() % 4096) / 1024.0f - 2.0f;
  for (const std::string name : {"pq8x8", "pq4x16"}) {
    const PqCodebook book = MakeCodebook(name, 64, 2);
    const PqKeyCodec codec({book});
    EXPECT_EQ(codec.name(), name);
    EXPECT_EQ(codec.PageBytes(), 64 * 8);
    std::vector<std::byte> page(codec.PageBytes(), std::byte{0xff});
    codec.Encode(0, {rows.data(), 20, 64, 64}, 0, page.data());
    codec.Encode(0, {rows.data() + 20 * 64, 44, 64, 64}, 20, page.data());
    std::vector<float> found(64), want(64);
    std::vector<uint8_t> codes(book.shape().n_subspaces);
    for (int i = 0; i < kPageEntries; ++i) {
      book.Encode({rows.data() + i * 64, 1, 64, 64}, codes);
      book.Decode(codes, want.data());
      codec.Decode(0, page.data(), i, found.data());
      ASSERT_EQ(found, want) << name << " " << i;
    }
    codec.Move(page.data(), 41, page.data(), 2);
    codec.Decode(0, page.data(), 2, found.data());
    codec.Decode(0, page.data(), 41, want.data());
    EXPECT_EQ(found, want);
    rows[5] = NAN;
    EXPECT_THROW(codec.Encode(0, {rows.data(), 1, 64, 64}, 0, page.data()), Error);
    rows[5] = 0;
  }
}

}  // namespace
}  // namespace pith
