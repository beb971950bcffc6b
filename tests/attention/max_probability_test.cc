// The maximum probabilities against the double-precision reference and against KVzip scores made by
// other programs.
#include "attention/max_probability.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/safetensors.h"
#include "pith/error.h"
#include "problem.h"

namespace pith {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Where the entries of a head are: before the judged ones, judged, between them and the tail, tail.
// The chunk follows. Heads differ in what is before and in their tails.
struct Layout {
  int64_t before = 0;
  int64_t judged = 0;
  int64_t gap = 0;
  int64_t tail = 0;
  int n_extra = 0;
  bool divided = false;
};

struct Judgement {
  Problem problem;
  int64_t n_judged = 0;
  std::vector<JudgedHead> heads;
  std::vector<float> extra;  // [n_kv_heads, n_extra, head_dim + 3]
  std::vector<float> log2_divisor;

  size_t n_results() const { return problem.shape.n_heads * n_judged; }
};

Judgement MakeJudgement(int head_dim, int group, int n_kv_heads, int n_tokens, const Layout& layout,
                        uint32_t seed, float q_size = 1.0f) {
  Judgement j;
  std::vector<int64_t> counts;
  for (int g = 0; g < n_kv_heads; ++g) {
    counts.push_back(layout.before + layout.judged + layout.gap + layout.tail + 16 * g);
  }
  j.problem = MakeProblem(head_dim, group, counts, n_tokens, true, seed, q_size);
  j.n_judged = layout.judged;
  std::minstd_rand random(seed + 1);
  const auto next = [&] { return static_cast<float>(random() % 65536) / 32768.0f - 1.0f; };
  const size_t stride = head_dim + 3;
  j.extra.resize(n_kv_heads * layout.n_extra * stride, kNan);
  const std::vector<HeadView> views = j.problem.views();
  for (int g = 0; g < n_kv_heads; ++g) {
    float* rows = j.extra.data() + g * layout.n_extra * stride;
    for (int i = 0; i < layout.n_extra; ++i) {
      for (int d = 0; d < head_dim; ++d) rows[i * stride + d] = 2.0f * next();
    }
    JudgedHead head;
    head.view = views[g];
    head.begin = layout.before + 11 * g;
    head.end = head.begin + layout.judged;
    head.tail_begin = head.end + layout.gap;
    head.extra = {rows, static_cast<size_t>(layout.n_extra), static_cast<size_t>(head_dim), stride};
    j.heads.push_back(head);
    // What no query sees must not matter.
    for (int64_t i = 0; i < head.tail_begin; ++i) {
      if (i >= head.begin && i < head.end) continue;
      for (int d = 0; d < head_dim; ++d) j.problem.heads[g]->SetKey(i, d, kNan);
    }
  }
  if (layout.divided) {
    for (int t = 0; t < n_tokens; ++t) j.log2_divisor.push_back(4.0f * next());
  }
  return j;
}

void RunOnThreads(MaxProbability& kernel, const Judgement& j, int n_threads,
                  std::vector<float>& log2_max) {
  std::vector<std::thread> threads;
  const auto run = [&](int t) {
    kernel.Run(j.problem.q.data(), j.heads, j.log2_divisor, log2_max.data(), t, n_threads);
  };
  for (int t = 1; t < n_threads; ++t) threads.emplace_back(run, t);
  run(0);
  for (std::thread& thread : threads) thread.join();
}

std::vector<float> JudgeAll(const Judgement& j, int n_threads) {
  std::vector<float> log2_max(j.n_results(), -kInfinity);
  MaxProbability kernel(j.problem.shape, n_threads);
  kernel.Prepare(j.problem.n_tokens, j.n_judged);
  RunOnThreads(kernel, j, n_threads, log2_max);
  return log2_max;
}

std::vector<double> Reference(const Judgement& j) {
  std::vector<double> log2_max(j.n_results(), -std::numeric_limits<double>::infinity());
  ReferenceMaxProbability(j.problem.shape, j.problem.q.data(), j.problem.n_tokens, j.heads,
                          j.log2_divisor, log2_max.data());
  return log2_max;
}

// The largest error in units of what a correct f32 kernel may be off by: a score errs as Tolerance
// in problem.h says, the normaliser by that, by its exponentials and sum, and both and the
// divisor are rounded. Infinite where NaN or an infinity is not where it should be.
double WorstError(const Judgement& j, const std::vector<float>& got,
                  const std::vector<double>& want) {
  constexpr double kEps = std::numeric_limits<float>::epsilon();
  constexpr double kLog2E = 1.4426950408889634;
  const AttentionShape& shape = j.problem.shape;
  double q2_max = 0;
  for (size_t row = 0; row * shape.head_dim < j.problem.q.size(); ++row) {
    double q2 = 0;
    for (int d = 0; d < shape.head_dim; ++d) {
      const double x = j.problem.q[row * shape.head_dim + d];
      q2 += x * x;
    }
    if (q2 < 1e30) q2_max = std::max(q2_max, q2);  // others give nothing
  }
  const double k_norm = 2.0 * std::sqrt(shape.head_dim);
  const double score = std::sqrt(shape.head_dim) * shape.scale * std::sqrt(q2_max) * k_norm;
  const double n = static_cast<double>(j.heads.back().view.n_entries() + j.heads[0].extra.rows);
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::isinf(want[i]) && want[i] == got[i]) continue;
    if (!std::isfinite(want[i]) || !std::isfinite(got[i])) return kInfinity;
    const double tolerance =
        kEps * (kLog2E * (2 * score + 4 + std::sqrt(n)) + std::fabs(want[i]) + 4);
    const double error = std::fabs(got[i] - want[i]);
    if (!(error <= tolerance * worst)) worst = error / tolerance;
  }
  return worst;
}

// Odd places, remainders of every step, none or many of each kind of entry.
const Layout kLayouts[] = {
    {.before = 0, .judged = 64},
    {.before = 3, .judged = 131, .n_extra = 4, .divided = true},
    {.before = 4, .judged = 1, .tail = 7},
    {.before = 33, .judged = 30, .gap = 5, .tail = 63, .n_extra = 1},
    {.before = 63, .judged = 2, .gap = 1, .divided = true},
    {.before = 95, .judged = 97, .gap = 31, .tail = 64, .n_extra = 70, .divided = true},
    {.before = 130, .judged = 190, .tail = 129},
};

TEST(MaxProbability, ComparatorFailsOnErrorsAndNan) {
  const Judgement j = MakeJudgement(64, 1, 1, 3, kLayouts[1], 1);
  const std::vector<double> want = Reference(j);
  std::vector<float> got(want.begin(), want.end());
  EXPECT_LE(WorstError(j, got, want), 1.0);
  for (const float off : {got[5] + 1e-3f, got[5] - 1e-3f, kNan, kInfinity, -kInfinity}) {
    std::vector<float> wrong = got;
    wrong[5] = off;
    EXPECT_FALSE(WorstError(j, wrong, want) <= 1.0) << off;
  }
}

// Every head dimension and group with five sizes of chunk, together each of 1..70.
TEST(MaxProbability, MatchesReferenceAtEveryLevel) {
  const std::vector<std::string> levels = AvailableSimdLevels();
  double worst = 0;
  int index = 0;
  for (int round = 0; round < 5; ++round) {
    for (const int head_dim : {64, 80, 128, 256}) {
      for (const int group : {1, 3, 4, 8}) {
        const int n_tokens = 1 + index % 70;
        const Layout& layout = kLayouts[index % std::size(kLayouts)];
        ++index;
        if (index % std::min(kEvery, 7) != 0) continue;
        const Judgement j = MakeJudgement(head_dim, group, 2, n_tokens, layout, index);
        const std::vector<double> want = Reference(j);
        for (const std::string& level : levels) {
          const ForcedLevel forced(level);
          ASSERT_TRUE(forced.taken());
          const double error = WorstError(j, JudgeAll(j, 1 + index % 3), want);
          worst = std::max(worst, error);
          ASSERT_LE(error, 1.0) << level << " head_dim " << head_dim << " group " << group
                                << " n_tokens " << n_tokens << " judged " << layout.judged;
        }
      }
    }
  }
  RecordProperty("worst_error", std::to_string(worst));
}

TEST(MaxProbability, ManyBlocksOfQueries) {
  const int n_tokens = kEvery > 1 ? 150 : 700;
  const Layout layout = {
      .before = 37, .judged = 300, .gap = 3, .tail = 90, .n_extra = 4, .divided = true};
  const Judgement j = MakeJudgement(64, 3, 2, n_tokens, layout, 2);
  const std::vector<double> want = Reference(j);
  for (const std::string& level : AvailableSimdLevels()) {
    const ForcedLevel forced(level);
    EXPECT_LE(WorstError(j, JudgeAll(j, 2), want), 1.0) << level;
  }
}

TEST(MaxProbability, LargeScores) {
  // Scores of thousands: one entry takes all, and log2 probabilities fall far below 2^-126.
  for (const std::string& level : AvailableSimdLevels()) {
    const ForcedLevel forced(level);
    const Judgement j = MakeJudgement(64, 3, 2, 45, kLayouts[5], 3, 1000.0f);
    EXPECT_LE(WorstError(j, JudgeAll(j, 1), Reference(j)), 1.0) << level;
  }
}

TEST(MaxProbability, ThreadsGiveTheSameBits) {
  const Judgement j = MakeJudgement(80, 4, 3, 333, kLayouts[5], 4);
  const std::vector<float> one = JudgeAll(j, 1);
  for (int threads = 2; threads <= 4; ++threads) {
    MaxProbability kernel(j.problem.shape, 4);
    kernel.Prepare(j.problem.n_tokens, j.n_judged);
    for (int again = 0; again < 3; ++again) {
      std::vector<float> log2_max(j.n_results(), -kInfinity);
      RunOnThreads(kernel, j, threads, log2_max);
      ASSERT_EQ(log2_max, one) << threads;
    }
  }
}

TEST(MaxProbability, RunsRaiseWhatWasThere) {
  const Judgement a = MakeJudgement(64, 3, 2, 50, kLayouts[1], 5);
  Judgement b = MakeJudgement(64, 3, 2, 50, kLayouts[1], 5);
  for (float& x : b.problem.q) x = -x;
  const std::vector<float> of_a = JudgeAll(a, 1);
  const std::vector<float> of_b = JudgeAll(b, 1);
  MaxProbability kernel(a.problem.shape, 2);
  kernel.Prepare(a.problem.n_tokens, a.n_judged);
  std::vector<float> both(a.n_results(), -kInfinity);
  both[7] = 100.0f;
  RunOnThreads(kernel, a, 2, both);
  RunOnThreads(kernel, b, 2, both);
  EXPECT_EQ(both[7], 100.0f);
  int from_a = 0;
  for (size_t i = 0; i < both.size(); ++i) {
    if (i == 7) continue;
    ASSERT_EQ(both[i], std::max(of_a[i], of_b[i])) << i;
    from_a += of_a[i] > of_b[i] ? 1 : 0;
  }
  EXPECT_GT(from_a, 0);
  EXPECT_LT(from_a, static_cast<int>(both.size()) - 1);
}

// The queries in pieces, each with the earlier ones in its tail, give what they give at once.
TEST(MaxProbability, PiecesGiveTheWhole) {
  const Layout layout = {.before = 5, .judged = 201, .gap = 2, .n_extra = 4, .divided = true};
  constexpr int kTokens = 1101;
  const Judgement whole = MakeJudgement(64, 3, 2, kTokens, layout, 6);
  const AttentionShape& shape = whole.problem.shape;
  MaxProbability kernel(shape, 1);
  std::vector<float> log2_max(whole.n_results(), -kInfinity);
  for (int begin = 0; begin < kTokens; begin += 512) {
    const int n = std::min(512, kTokens - begin);
    std::vector<JudgedHead> heads = whole.heads;
    for (JudgedHead& head : heads) {
      head.view.tiers[0].n_entries -= kTokens - begin - n;
      head.view.n_chunk = n;
    }
    kernel.Prepare(n, whole.n_judged);
    kernel.Run(whole.problem.q.data() + size_t{1} * begin * shape.n_heads * shape.head_dim, heads,
               std::span(whole.log2_divisor).subspan(begin, n), log2_max.data(), 0, 1);
  }
  EXPECT_EQ(log2_max, JudgeAll(whole, 1));
}

TEST(MaxProbability, NotANumberJudgesNothing) {
  for (const std::string& level : AvailableSimdLevels()) {
    const ForcedLevel forced(level);
    for (const float bad : {kNan, kInfinity, -kInfinity}) {
      Judgement query = MakeJudgement(64, 3, 2, 45, kLayouts[5], 7);
      for (const size_t row : {0, 1, 5, 100, 269}) query.problem.q[row * 64 + 17] = bad;
      EXPECT_LE(WorstError(query, JudgeAll(query, 2), Reference(query)), 1.0) << level << bad;

      Judgement divisor = MakeJudgement(64, 3, 2, 45, kLayouts[5], 8);
      divisor.log2_divisor[44] = divisor.log2_divisor[3] = bad;
      EXPECT_LE(WorstError(divisor, JudgeAll(divisor, 2), Reference(divisor)), 1.0) << level << bad;

      // A key in the chunk: the queries before it judge as ever. A judged key: nobody judges.
      Judgement chunk = MakeJudgement(64, 3, 2, 45, kLayouts[5], 9);
      chunk.problem.heads[0]->SetKey(chunk.heads[0].view.n_entries() - 20, 3, bad);
      const std::vector<float> of_chunk = JudgeAll(chunk, 2);
      Judgement judged = MakeJudgement(64, 3, 2, 45, kLayouts[5], 10);
      judged.problem.heads[1]->SetKey(judged.heads[1].begin + 1, 3, bad);
      const std::vector<float> of_judged = JudgeAll(judged, 2);
      if (level.starts_with("AVX") || level.starts_with("NEON")) {
        EXPECT_LE(WorstError(chunk, of_chunk, Reference(chunk)), 1.0) << level << bad;
        EXPECT_LE(WorstError(judged, of_judged, Reference(judged)), 1.0) << level << bad;
      } else {  // f16 keys are never infinite there, see LoadF16
        for (const float x : of_chunk) ASSERT_TRUE(std::isfinite(x)) << level << bad;
        for (const float x : of_judged) ASSERT_TRUE(std::isfinite(x)) << level << bad;
      }
    }
  }
}

TEST(MaxProbability, NothingToJudge) {
  const Judgement j = MakeJudgement(64, 3, 2, 5, {.before = 40, .judged = 0, .tail = 9}, 11);
  EXPECT_TRUE(JudgeAll(j, 2).empty());
}

TEST(MaxProbability, RefusesWhatAttentionRefuses) {
  const AttentionShape good = {.head_dim = 64, .n_heads = 6, .n_kv_heads = 2, .scale = 1};
  EXPECT_THROW(MaxProbability({.head_dim = 60, .n_heads = 6, .n_kv_heads = 2}, 1), Error);
  EXPECT_THROW(MaxProbability({.head_dim = 64, .n_heads = 7, .n_kv_heads = 2}, 1), Error);
  EXPECT_THROW(MaxProbability(good, 0), Error);
  MaxProbability kernel(good, 1);
  EXPECT_THROW(kernel.Prepare(0, 5), Error);
  EXPECT_THROW(kernel.Prepare(5, -1), Error);
}

// Arrays of one layer of SmolLM2-135M whose context is repeated; scores by their definition.
class GoldenKvzip : public testing::TestWithParam<int> {
 protected:
  static constexpr int kHeadDim = 64;
  static constexpr int kHeads = 9;
  static constexpr int kKvHeads = 3;

  std::vector<float> Get(const char* name) const { return file_.Get(name).ToFloats(); }

  // Keys in f32, context then repeat. A key as the sum of two f16 parts is exact to 2^-22: heads of
  // 128 dimensions [high, low] for queries [q, q]. Or only as the high part.
  Judgement Make(bool split, bool divided) const {
    const std::vector<float> q = Get("q_repeat"), context = Get("k_context"),
                             repeat = Get("k_repeat"), hidden_norm = Get("hidden_norm");
    const int n_context = static_cast<int>(context.size()) / (kKvHeads * kHeadDim);
    const int n_repeat = static_cast<int>(hidden_norm.size());
    const int head_dim = split ? 2 * kHeadDim : kHeadDim;
    Judgement j;
    j.n_judged = n_context;
    Problem& p = j.problem;
    p.shape = {.head_dim = head_dim, .n_heads = kHeads, .n_kv_heads = kKvHeads, .scale = 0.125f};
    p.n_tokens = n_repeat;
    p.causal = true;
    for (int t = 0; t < n_repeat; ++t) {
      for (int h = 0; h < kHeads; ++h) {
        const float* row = q.data() + size_t{1} * (h * n_repeat + t) * kHeadDim;
        for (int part = 0; part < (split ? 2 : 1); ++part) {
          p.q.insert(p.q.end(), row, row + kHeadDim);
        }
      }
    }
    for (int g = 0; g < kKvHeads; ++g) {
      auto& head = p.heads.emplace_back(std::make_unique<TestHead>(head_dim, n_context + n_repeat));
      for (int i = 0; i < n_context + n_repeat; ++i) {
        const float* key = i < n_context
                               ? &context[size_t{1} * (g * n_context + i) * kHeadDim]
                               : &repeat[size_t{1} * (g * n_repeat + i - n_context) * kHeadDim];
        for (int d = 0; d < kHeadDim; ++d) {
          head->SetKey(i, d, key[d]);
          const float high = ggml_fp16_to_fp32(ggml_fp32_to_fp16(key[d]));
          if (split) head->SetKey(i, kHeadDim + d, key[d] - high);
        }
      }
      j.heads.push_back({.view = head->view(n_repeat), .end = n_context, .tail_begin = n_context});
    }
    if (divided) {
      for (const float norm : hidden_norm) j.log2_divisor.push_back(std::log2(norm));
    }
    return j;
  }

  // [n_kv_heads, T] of log2_max [n_heads, T], weighted, the largest of the group.
  static std::vector<double> Scores(const std::vector<float>& log2_max,
                                    const std::vector<float>& weights) {
    const size_t n = log2_max.size() / kHeads;
    std::vector<double> scores(kKvHeads * n);
    for (size_t h = 0; h < kHeads; ++h) {
      for (size_t i = 0; i < n; ++i) {
        double& score = scores[h / (kHeads / kKvHeads) * n + i];
        const double weight = weights.empty() ? 1.0 : weights[h * n + i];
        score = std::max(score, std::exp2(double{log2_max[h * n + i]}) * weight);
      }
    }
    return scores;
  }

  static void ExpectClose(const std::vector<double>& got, const std::vector<float>& want,
                          double tolerance) {
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_GT(want[i], 0.0f);
      ASSERT_LE(std::fabs(got[i] - want[i]), tolerance * want[i]) << i;
    }
  }

 private:
  SafeTensors file_ = SafeTensors::Open(std::string(PITH_TEST_DATA "/kvzip_layer") +
                                        std::to_string(GetParam()) + ".safetensors");
};

INSTANTIATE_TEST_SUITE_P(Layers, GoldenKvzip, testing::Values(3, 15));

TEST_P(GoldenKvzip, ScoresAreTheDefinitions) {
  const Judgement plain = Make(true, false);
  const Judgement plus = Make(true, true);
  for (const std::string& level : AvailableSimdLevels()) {
    SCOPED_TRACE(level);
    const ForcedLevel forced(level);
    ExpectClose(Scores(JudgeAll(plain, 2), {}), Get("kvzip"), 1e-4);
    ExpectClose(Scores(JudgeAll(plus, 2), Get("value_norm")), Get("kvzip_plus"), 1e-4);
  }
}

TEST_P(GoldenKvzip, RoundedKeysMatchTheReferenceOnThem) {
  const Judgement j = Make(false, true);
  const std::vector<float> got = JudgeAll(j, 1);
  const std::vector<double> want = Reference(j);
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_LE(std::fabs(got[i] - want[i]), 3e-5) << i;
  }
}

}  // namespace
}  // namespace pith
