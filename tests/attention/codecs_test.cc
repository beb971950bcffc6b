// The kernels over rows that are integers with scales, against the double-precision reference over
// the decoded rows. What a kernel may be off by beyond rounding to f32 is stated where it rounds to
// integers: quantised_keys-inl.h and quantised_values-inl.h.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "attention/kernels.h"
#include "cache/hadamard.h"
#include "cache/quantised_layout.h"
#include "problem.h"

namespace pith {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

constexpr const char* kNames[] = {"f16", "q8", "q4"};

constexpr int kVnniLimit = 256 * 127 + 127;

// What an element of a query may be off by after rounding to integers, as quantised_keys-inl.h
// says; of q4 keys, of the rotated query.
double QueryStep(const std::string& key_codec, const float* q, int head_dim, int d) {
  float largest = 0;
  for (int i = 0; i < head_dim; ++i) largest = std::max(largest, std::fabs(q[i]));
  if (key_codec == "q4") return largest / 254;
  if (HasVnni()) return largest / (2.0 * kVnniLimit);
  const double of_pair = std::max(std::fabs(q[d / 2 * 2]), std::fabs(q[d / 2 * 2 + 1]));
  return (of_pair / 64 + largest / (64 * 4095)) / 2;
}

// Queries that are integers of the kernel's own scale, so that its rounding changes nothing and the
// rest of it can be held to the tolerance of f32.
void MakeQueriesExact(Problem& p, const std::string& key_codec, uint32_t seed) {
  if (key_codec == "f16") return;
  std::minstd_rand random(seed);
  const int head_dim = p.shape.head_dim;
  const auto code = [&](int levels) {
    return static_cast<float>(static_cast<int>(random() % (2 * levels + 1)) - levels);
  };
  for (size_t row = 0; row * head_dim < p.q.size(); ++row) {
    float* q = &p.q[row * head_dim];
    for (int d = 0; d < head_dim; d += 2) {
      if (key_codec == "q4") {
        q[d] = code(127) / 64;
        q[d + 1] = d == 4 ? 127.0f / 64 : code(127) / 64;
      } else if (HasVnni()) {
        q[d] = std::ldexp(d == 4 ? kVnniLimit : code(kVnniLimit), -15);
        q[d + 1] = std::ldexp(code(kVnniLimit), -15);
      } else {  // a pair's multiple of 2^-17, the largest of them once
        const float of_pair = d == 4 ? 4095 : static_cast<float>(1 + random() % 4095);
        q[d] = std::ldexp(64 * of_pair, -17);
        q[d + 1] = std::ldexp(code(64) * of_pair, -17);
        if (random() % 2 == 0) std::swap(q[d], q[d + 1]);
      }
    }
    if (key_codec == "q4") Hadamard(q, head_dim);
  }
}

// What roundings of weights may do to an output, as a random walk over a page with four times its
// size. q8: halves of 1 / 32767 of all weights. q4: a unit's rounding up or down has a variance of
// at most a quarter, and a unit is at most 1 / 126 of all weights. Values are in -1..1.
double WeightTolerance(const std::string& value_codec) {
  if (value_codec == "q8") return 4 * std::sqrt(kPageEntries) / 65534 * 2.5;
  return value_codec == "q4" ? 4 * std::sqrt(kPageEntries / 4.0) / 126 * std::sqrt(1 / 3.0) : 0;
}

// The largest error in units of what a correct kernel may be off by; `rounded_queries` where the
// kernel rounds and the queries are not made for that.
double WorstCodedError(const Problem& p, const CodecNames& codecs, bool rounded_queries,
                       double weight_tolerance, const std::vector<float>& got,
                       const std::vector<double>& want) {
  const int head_dim = p.shape.head_dim;
  const double k_norm = 2.2 * std::sqrt(head_dim);
  double worst = 0;
  for (size_t row = 0; row * head_dim < got.size(); ++row) {
    std::vector<float> q(&p.q[row * head_dim], &p.q[row * head_dim] + head_dim);
    double q2 = 0;
    for (const float x : q) q2 += double{x} * x;
    double tolerance = 2 * Tolerance(p.shape, std::sqrt(q2), k_norm, 1.5, 1000) + weight_tolerance;
    if (rounded_queries && codecs.keys != "f16") {
      if (codecs.keys == "q4") Hadamard(q.data(), head_dim);
      double step2 = 0;  // of the rounding's largest norm
      for (int d = 0; d < head_dim; ++d) {
        const double step = QueryStep(codecs.keys, q.data(), head_dim, d);
        step2 += step * step;
      }
      tolerance += 2 * std::sqrt(step2) * k_norm * p.shape.scale;
    }
    for (size_t i = row * head_dim; i < (row + 1) * head_dim; ++i) {
      if (std::isnan(want[i]) != std::isnan(got[i])) return kInfinity;
      if (std::isnan(want[i])) continue;
      const double error = std::fabs(got[i] - want[i]);
      if (!(error <= tolerance * worst)) worst = error / tolerance;
    }
  }
  return worst;
}

class Codecs : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(level_.taken()); }
  ForcedLevel level_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Levels, Codecs, testing::ValuesIn(AvailableSimdLevels()),
                         [](const auto& param) { return param.param; });

// Pairs of codecs x head dimensions x chunks, with groups, threads and kinds of queries in changing
// company, each with every kind of remainder in its ragged heads.
TEST_P(Codecs, EveryPairMatchesReference) {
  const bool best = GetParam() == AvailableSimdLevels().front();
  const std::vector<int64_t> most = {0, 1, 2, 31, 33, 64, 65, 127};
  const std::vector<int64_t> some = {33, 0, 70};
  int index = 0;
  double worst = 0;
  for (const char* keys : kNames) {
    for (const char* values : kNames) {
      for (const int head_dim : {64, 80, 128, 8, 72, 96, 256}) {
        for (const int n_tokens : {1, 2, 5, 131}) {
          ++index;
          if (index % kEvery != 0 || (!best && index % 3 != 0)) continue;
          const int group = n_tokens > 5 ? 1 + index % 2 : 1 + index % 8;
          const bool exact = index % 4 != 0;
          const CodecNames codecs = {keys, values};
          Problem p = MakeProblem(head_dim, group, n_tokens < 5 ? most : some, n_tokens,
                                  index % 2 == 0, index, 1.0f, codecs);
          if (exact) MakeQueriesExact(p, keys, index);
          const Rounding rounding(codecs, n_tokens * group);
          const double error = WorstCodedError(p, codecs, rounding.queries && !exact,
                                               rounding.weights ? WeightTolerance(values) : 0,
                                               Attend(p, 1 + index % 3), Reference(p));
          worst = std::max(worst, error);
          EXPECT_LE(error, 1.0) << keys << " " << values << " head_dim " << head_dim << " group "
                                << group << " n_tokens " << n_tokens << " exact " << exact;
        }
      }
    }
  }
  RecordProperty("worst_error", std::to_string(worst));
}

// What a score errs by beyond rounding to f32 is less than what quantised_keys-inl.h says.
TEST_P(Codecs, ScoresStayWithinTheirBound) {
  for (const std::string name : {"f16", "q8", "q4"}) {
    for (const int head_dim : {64, 80, 128}) {
      for (const int group : {1, 3, 4, 7}) {
        if (CurrentKernels().score == nullptr) continue;
        const Problem p = MakeProblem(head_dim, group, {97}, 1, false, 3, 1.0f, {name, "f16"});
        double worst = 0;
        CompareScores(p, [&](const float* q, std::vector<float> key, float got, double want) {
          std::vector<float> row(q, q + head_dim);
          if (name == "q4") {
            Hadamard(row.data(), head_dim);
            Hadamard(key.data(), head_dim);
          }
          double bound = 0;
          for (int d = 0; d < head_dim; ++d) {
            const double step = name == "f16" ? 0 : QueryStep(name, row.data(), head_dim, d);
            bound += (step + 1e-6 * std::fabs(row[d])) * std::fabs(key[d]);
          }
          const double error = std::fabs(got - want) / (bound * p.shape.scale + 1e-6);
          if (!(error <= worst)) worst = error;
        });
        EXPECT_LE(worst, 1.0) << name << " " << head_dim << " " << group;
      }
    }
  }
}

// Keys with a frame: a large centre, which the scores have as a whole, and spreads.
class Framed {
 public:
  Framed(const std::string& name, int head_dim) : names_{name, "f16"} {
    std::minstd_rand random(head_dim);
    KeyFrames frames;
    for (int d = 0; d < head_dim; ++d) {
      frames.centres.push_back(static_cast<float>(random() % 1000) / 10 - 50);
      frames.spreads.push_back(std::exp2(static_cast<float>(random() % 5) - 2));
    }
    names_.codes = MakeKeyCodec(name, head_dim, nullptr, &frames);
    format_ = names_.codes->Format(0);
    frames_ = frames;
  }

  // Keys are centre + spread * x, x in -2..2.
  Problem Make(int group, const std::vector<int64_t>& counts, int n_tokens) const {
    const auto head_dim = static_cast<int>(frames_.centres.size());
    Problem p = MakeProblem(head_dim, group, counts, n_tokens, false, 3, 1.0f, names_);
    std::minstd_rand random(5);
    std::vector<float> key(head_dim), value(head_dim);
    for (size_t head = 0; head < counts.size(); ++head) {
      for (int64_t i = 0; i < counts[head]; ++i) {
        for (int d = 0; d < head_dim; ++d) {
          const float x = static_cast<float>(random() % 65536) / 16384.0f - 2.0f;
          key[d] = frames_.centres[d] + frames_.spreads[d] * x;
          value[d] = static_cast<float>(random() % 65536) / 32768.0f - 1.0f;
        }
        p.heads[head]->Set(i, key.data(), value.data());
      }
    }
    return p;
  }
  // What a score errs by, in all: of the query's rounding and of f32, for keys as they lie.
  double Bound(const Problem& p, const float* q, bool rounds) const {
    const int head_dim = p.shape.head_dim;
    std::vector<float> row(q, q + head_dim);
    for (int d = 0; d < head_dim; ++d) row[d] *= format_.spread[d];
    const bool q4 = format_.id == CodecId::kQ4;
    if (q4) Hadamard(row.data(), head_dim);
    double bound = 0;
    for (int d = 0; d < head_dim; ++d) {
      const double most = q4 ? 2 * std::sqrt(head_dim) : 2.1;  // of x, which may be rotated
      const double step = rounds ? QueryStep(names_.keys, row.data(), head_dim, d) : 0;
      bound += step * most + 1e-6 * std::fabs(row[d]) * (most + std::fabs(format_.centre[d]));
    }
    return bound * p.shape.scale;
  }

 private:
  CodecNames names_;
  KeyFrames frames_;
  RowFormat format_;
};

TEST_P(Codecs, ScoresOfFramedKeysHaveTheirCentre) {
  for (const std::string name : {"q8", "q4"}) {
    for (const int head_dim : {64, 80, 128}) {
      for (const int group : {1, 3, 7}) {
        if (CurrentKernels().score == nullptr) continue;
        const Framed framed(name, head_dim);
        const Problem p = framed.Make(group, {97}, 1);
        std::vector<double> bounds;
        for (int r = 0; r < group; ++r) {
          bounds.push_back(framed.Bound(p, &p.q[size_t{1} * r * head_dim], true));
        }
        double worst = 0, largest = 0;
        CompareScores(p, [&](const float* q, const std::vector<float>&, float got, double want) {
          const double bound = bounds[(q - p.q.data()) / head_dim];
          const double error = std::fabs(got - want) / bound;
          if (!(error <= worst)) worst = error;
          largest = std::max(largest, std::fabs(want) / bound);
        });
        EXPECT_LE(worst, 1.0) << name << " " << head_dim << " " << group;
        EXPECT_GE(largest, 2.0);  // else the bound says nothing of the centre
      }
    }
  }
}

// Beside exact keys of the same head, so that a centre that is missing or doubled is seen.
TEST_P(Codecs, FramedKeysMatchReferenceBesideExactOnes) {
  for (const std::string name : {"q8", "q4"}) {
    for (const int head_dim : {64, 80}) {
      for (const int n_tokens : {1, 131}) {
        const int group = 2;
        const Framed framed(name, head_dim);
        Problem p = framed.Make(group, {97}, n_tokens);
        for (float& x : p.q) x /= 16;  // so that weights differ but all count
        Problem exact = MakeProblem(head_dim, group, {40}, n_tokens, false, 9);
        for (int64_t i = 0; i < 40; ++i) {
          exact.heads[0]->Set(i, p.heads[0]->Key(i).data(), std::vector<float>(head_dim).data());
        }
        std::vector<HeadView> views = p.views();
        views[0].tiers[1] = views[0].tiers[0];
        views[0].tiers[0] = exact.views()[0].tiers[0];
        views[0].n_tiers = 2;
        std::vector<float> got(p.q.size(), kNan);
        std::vector<double> want(p.q.size());
        AttentionPlan plan(p.shape, 1);
        plan.Prepare(n_tokens);
        plan.Run(p.q.data(), views, got.data(), 0, 1);
        ReferenceAttention(p.shape, p.q.data(), n_tokens, views, want.data());
        const bool rounds = Rounding({name, "f16"}, n_tokens * group).queries;
        double worst = 0, size = 0;
        for (size_t i = 0; i < got.size(); ++i) {
          const float* q = &p.q[i / head_dim * head_dim];
          // Weights err by twice what scores do, relatively, and so do outputs of values up to 1.
          const double error =
              std::fabs(got[i] - want[i]) / (2 * framed.Bound(p, q, rounds) + 1e-5);
          if (!(error <= worst)) worst = error;
          size = std::max(size, std::fabs(want[i]));
        }
        EXPECT_LE(worst, 1.0) << name << " " << head_dim << " " << n_tokens;
        EXPECT_GE(size, 0.05);
      }
    }
  }
}

// Entries that weigh the same and have the same scales: no weight is rounded, so that where the
// codes lie is held to the tolerance of f32.
TEST_P(Codecs, EqualWeightsAreExact) {
  for (const char* name : {"q8", "q4"}) {
    for (const int head_dim : {64, 80, 128}) {
      for (const int group : {1, 3, 4}) {
        const std::vector<int64_t> counts = {1, 15, 17, 32, 64, 96};
        Problem p = MakeProblem(head_dim, group, counts, 1, false, 5, 1.0f, {name, name});
        std::fill(p.q.begin(), p.q.end(), 0.0f);
        std::minstd_rand random(head_dim);
        std::vector<float> value(head_dim);
        for (size_t head = 0; head < counts.size(); ++head) {
          for (int64_t entry = 0; entry < counts[head]; ++entry) {
            for (int d = 0; d < head_dim; ++d) {
              value[d] =
                  d % kScaleDims == 7 ? -1.0f : static_cast<float>(random() % 15) / 8 - 0.875f;
              if (name[1] == '8') value[d] *= 127.0f / 128;
            }
            if (name[1] == '4') Hadamard(value.data(), head_dim);
            p.heads[head]->Set(entry, value.data(), value.data());
          }
        }
        EXPECT_LE(WorstCodedError(p, {name, name}, false, 0, Attend(p, 1), Reference(p)), 1.0)
            << name << " " << head_dim << " " << group;
      }
    }
  }
}

// What is not a number in a row or a query is not one in the output either, in any kernel.
TEST_P(Codecs, NanAndInfinityStayVisible) {
  for (const char* name : {"q8", "q4"}) {
    for (const int n_tokens : {1, 45}) {
      for (const float bad : {kNan, kInfinity, -kInfinity}) {
        for (const std::string where : {"key", "value", "query"}) {
          Problem p = MakeProblem(64, 3, {70, 40}, n_tokens, false, 1, 1.0f, {name, name});
          std::vector<float> good(64, 0.5f), wrong(64, 0.5f);
          wrong[37] = bad;
          if (where == "key") p.heads[0]->Set(66, wrong.data(), good.data());
          if (where == "value") p.heads[0]->Set(66, good.data(), wrong.data());
          if (where == "query") p.q[37] = bad;
          const std::vector<float> out = Attend(p, 1);
          EXPECT_FALSE(std::isfinite(out[37])) << name << " " << n_tokens << " " << where;
          EXPECT_TRUE(std::isfinite(out[3 * 64 + 37])) << name << " " << n_tokens << " " << where;
        }
      }
    }
  }
}

// Values of pages whose weights cannot matter are not read, which NaN in them would show; those of
// a page that may matter are, and in all an output is off by no more than decode-inl.h says.
TEST_P(Codecs, ValuesThatCannotMatterAreNotRead) {
  if (GetParam() == "SCALAR") return;  // converts all pages
  for (const std::string name : {"q8", "q4"}) {
    const double ignored = name == "q8" ? 0x1p-11 : 0x1p-7;
    for (const bool matters : {false, true}) {
      // Four pages: all weights but `rest` are in the first, and the others share that equally.
      const double rest = matters ? 2 * ignored : ignored / 2;
      Problem p = MakeProblem(64, 3, {256}, 1, false, 9, 1.0f, {"f16", name});
      std::fill(p.q.begin(), p.q.end(), 1.0f);
      const float size = name == "q8" ? 127.0f / 128 : 1.0f;  // what both codecs say exactly
      std::vector<float> value(64, size), wrong(64, matters ? -size : kNan);
      for (int64_t entry = 0; entry < 256; ++entry) {
        const double score = entry < 64 ? 0 : std::log(rest / 3);
        const std::vector<float> key(64, static_cast<float>(score / 64 / p.shape.scale));
        p.heads[0]->Set(entry, key.data(), entry < 64 ? value.data() : wrong.data());
      }
      const std::vector<float> out = Attend(p, 1);
      const double want = matters ? size * (1 - rest) / (1 + rest) : size;
      for (const float x : out) ASSERT_NEAR(x, want, ignored) << name << matters;
      if (matters) {
        const std::vector<double> all = Reference(p);
        for (size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], all[i], ignored) << name;
      }
    }
  }
}

// One entry takes all, wherever it stands: its decoded value is the answer.
TEST_P(Codecs, OneEntryDominates) {
  for (const char* name : {"q8", "q4"}) {
    for (const int64_t entry : {0, 31, 32, 64, 149}) {
      Problem p = MakeProblem(64, 3, {150}, 1, false, 7, 1.0f, {name, name});
      std::fill(p.q.begin(), p.q.end(), 4.0f);
      std::vector<float> key(64, 100.0f), value(64);
      for (int d = 0; d < 64; ++d) value[d] = static_cast<float>(d - 32);
      p.heads[0]->Set(entry, key.data(), value.data());
      const std::vector<float> out = Attend(p, 1);
      const std::vector<double> want = Reference(p);
      // The weight itself is rounded to 2^-15 or 1 / 126, and rows of q4 are far from even.
      const double tolerance = name[1] == '8' ? 0.01 : 32.0 / 126;
      for (size_t i = 0; i < out.size(); ++i) {
        ASSERT_NEAR(out[i], want[i], tolerance) << name << entry;
      }
    }
  }
}

TEST(CodedComparator, FailsOnNanAndOnErrorsAboveTolerance) {
  const CodecNames codecs = {"q8", "q4"};
  const Problem p = MakeProblem(64, 1, {5}, 1, false, 1, 1.0f, codecs);
  const std::vector<double> want = Reference(p);
  for (const float off : {0.01f, -0.01f, kNan, kInfinity}) {
    std::vector<float> got(want.begin(), want.end());
    EXPECT_LE(WorstCodedError(p, codecs, false, 1e-4, got, want), 1.0);
    got[63] += off;
    EXPECT_FALSE(WorstCodedError(p, codecs, false, 1e-4, got, want) <= 1.0) << off;
  }
}

}  // namespace
}  // namespace pith
