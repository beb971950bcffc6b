// Every kernel against the double-precision reference.
#include <gtest/gtest.h>

#include "problem.h"

namespace pith {
namespace {

TEST(Comparator, FailsOnNan) {
  const Problem p = MakeProblem(64, 1, {5}, 1, false, 1);
  const std::vector<double> want = Reference(p);
  std::vector<float> got(want.begin(), want.end());
  EXPECT_LE(WorstError(p, got, want), 1.0);
  got[63] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(WorstError(p, got, want) <= 1.0);
  got[63] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(WorstError(p, got, want) <= 1.0);
}

TEST(Comparator, FailsOnErrorAboveTolerance) {
  const Problem p = MakeProblem(64, 1, {5}, 1, false, 1);
  const std::vector<double> want = Reference(p);
  std::vector<float> got(want.begin(), want.end());
  got[0] += 1e-3f;
  EXPECT_FALSE(WorstError(p, got, want) <= 1.0);
}

TEST(SimdLevel, ForcingTakes) {
  const std::vector<std::string> levels = AvailableSimdLevels();
  ASSERT_FALSE(levels.empty());
  for (const std::string& level : levels) {
    const ForcedLevel forced(level);
    EXPECT_TRUE(forced.taken());
    EXPECT_EQ(CurrentSimdLevel(), level);
  }
  EXPECT_EQ(CurrentSimdLevel(), levels.front());
  EXPECT_FALSE(ForceSimdLevel("no such level"));
  EXPECT_EQ(CurrentSimdLevel(), levels.front());
}

// All head dimensions x groups x ragged counts x chunk sizes x causal or not, at one level. Counts
// are the KV heads of one problem, so that every thread boundary falls somewhere else.
class EveryShape : public testing::TestWithParam<std::string> {};

TEST_P(EveryShape, MatchesReference) {
  const bool best = GetParam() == AvailableSimdLevels().front();
  const ForcedLevel forced(GetParam());
  ASSERT_TRUE(forced.taken());
  const std::vector<int64_t> all = {0, 1, 31, 32, 33, 63, 64, 65, 127, 200, 1000};
  const std::vector<int64_t> most = {0, 1, 31, 32, 33, 63, 64, 65, 127, 200};
  const std::vector<int64_t> some = {33, 0, 127, 1, 64};
  int index = 0;
  double worst = 0;
  for (const int head_dim : {64, 80, 96, 128, 256, 8, 72}) {
    for (int group = 1; group <= 8; ++group) {
      std::vector<int> chunks = {1, 2, 3, 7, 8, 9, 64, 65};
      if (group < 3) chunks.push_back(131);  // enough rows for the kernel of many
      for (const int n_tokens : chunks) {
        for (const bool causal : {false, true}) {
          ++index;
          // The lower levels share the best one's loops: every fourth case shows their arithmetic.
          if (index % kEvery != 0 || (!best && index / kEvery % 4 != 0)) continue;
          const auto& counts = n_tokens < 4 ? all : n_tokens < 64 ? most : some;
          const Problem p = MakeProblem(head_dim, group, counts, n_tokens, causal, index);
          const std::vector<double> want = Reference(p);
          for (int threads = 1; threads <= 3; ++threads) {
            if ((!best || n_tokens > 1) && threads != index / 4 % 3 + 1) continue;
            const double error = WorstError(p, Attend(p, threads), want);
            worst = std::max(worst, error);
            ASSERT_LE(error, 1.0) << "head_dim " << head_dim << " group " << group << " n_tokens "
                                  << n_tokens << " causal " << causal << " threads " << threads;
          }
        }
      }
    }
  }
  RecordProperty("worst_error", std::to_string(worst));
}

// Every head dimension there is, with groups, chunks and threads in changing company: its
// remainders of vectors and of cache lines in both kernels.
TEST_P(EveryShape, EveryHeadDim) {
  const ForcedLevel forced(GetParam());
  ASSERT_TRUE(forced.taken());
  int index = 0;
  for (int head_dim = 8; head_dim <= 256; head_dim += 8) {
    for (const int n_tokens : {1, 2, 5, 45}) {
      const int group = 1 + (index + head_dim / 8) % 8;
      ++index;
      if (index % std::min(kEvery, 5) != 0) continue;
      const Problem p =
          MakeProblem(head_dim, group, {200, 1, 0, 330}, n_tokens, index % 3 != 0, index);
      ASSERT_LE(WorstError(p, Attend(p, 1 + index % 3), Reference(p)), 1.0)
          << "head_dim " << head_dim << " group " << group << " n_tokens " << n_tokens;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, EveryShape, testing::ValuesIn(AvailableSimdLevels()),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace pith
