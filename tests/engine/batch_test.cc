// Sessions that decode together: each as if it were alone, or all as if nothing had been asked.
#include "pith/batch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "engine/default_model.h"
#include "engine/session_impl.h"
#include "tools/expect_error.h"
#include "tools/random_gguf.h"
#include "tools/random_kvzap.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::ExpectError;

std::vector<Token> Text(size_t n, uint64_t state) {
  std::vector<Token> tokens;
  for (size_t i = 0; i < n; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    tokens.push_back(static_cast<Token>((state >> 33) % 200));
  }
  return tokens;
}

Token Best(std::span<const float> logits) {
  return static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// The norm of the difference over the norm.
double Difference(std::span<const float> got, std::span<const float> want) {
  if (got.size() != want.size()) return INFINITY;
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (double{got[i]} - want[i]) * (double{got[i]} - want[i]);
    norm += double{want[i]} * want[i];
  }
  return std::sqrt(difference / norm);
}

std::vector<int64_t> Counts(const Session& session) {
  std::vector<int64_t> counts;
  for (const HeadStats& head : session.stats().heads) counts.push_back(head.entries);
  return counts;
}

// Entries that one session keeps and the other does not.
int64_t KeptByOne(Session& a, Session& b) {
  const CacheShape& shape = a.impl().cache.shape();
  int64_t n = 0;
  for (int layer = 0; layer < shape.n_layers; ++layer) {
    for (int h = 0; h < shape.n_kv_heads; ++h) {
      std::vector<int32_t> kept[2];
      for (int i = 0; i < 2; ++i) {
        const auto positions = (i ? b : a).impl().cache.Entries(layer, h).positions;
        kept[i].assign(positions.begin(), positions.end());
        std::sort(kept[i].begin(), kept[i].end());
      }
      std::vector<int32_t> of_one;
      std::set_symmetric_difference(kept[0].begin(), kept[0].end(), kept[1].begin(), kept[1].end(),
                                    std::back_inserter(of_one));
      n += static_cast<int64_t>(of_one.size());
    }
  }
  return n;
}

// Rounding may turn a choice between entries of equal worth. Logits then differ by more, and go on
// doing so when both keep the same again: what came after was computed from others.
class Pairs {
 public:
  explicit Pairs(size_t n) : parted_(n) {}

  void ExpectTheSame(size_t i, Session& together, Session& alone, double tolerance) {
    EXPECT_EQ(Counts(together), Counts(alone));
    const int64_t n_other = KeptByOne(together, alone);
    EXPECT_LE(n_other, together.stats().entries / 100);
    if (n_other > 0) parted_[i] = true;
    EXPECT_LE(std::ranges::count(parted_, true), parted_.size() / 4 + 1);
    if (parted_[i]) return;
    const double difference = Difference(together.logits(), alone.logits());
    EXPECT_TRUE(difference <= tolerance) << "logits differ by " << difference;
    sum_ += difference;
    ++count_;
  }
  double mean_difference() const { return sum_ / count_; }

 private:
  std::vector<bool> parted_;
  double sum_ = 0;
  int count_ = 0;
};

Plan KeepPlan(const std::string& keep, const std::string& scorer) {
  Plan plan;
  plan.keep = Keep::Parse(keep);
  plan.scorer = scorer;
  plan.window = 16;
  return plan;
}

class BatchTest : public ::testing::Test {
 protected:
  BatchTest() {
    testing::RandomGguf gguf;
    gguf.n_ctx = 2048;
    testing::WriteRandomGguf(gguf, folder_ / "x.gguf");
    model_ = std::make_unique<Model>(Model::Load(folder_ / "x.gguf"));
  }

  Session Make(const Plan& plan, size_t n_tokens, uint64_t seed, bool pin = false) const {
    Session session(*model_, plan, {.n_batch = 64, .n_threads = 1});
    ReadOptions options;
    options.pin = pin;
    if (n_tokens > 0) session.Read(Text(n_tokens, seed), options);
    return session;
  }

  Plan KvzapPlan(const std::string& keep, bool mlp) const {
    Plan plan = KeepPlan(keep, "kvzap");
    plan.calibration = std::make_shared<const Calibration>(
        testing::MakeRandomKvzap(folder_ / "x.gguf", {.mlp = mlp, .seed = 5}));
    return plan;
  }

  // One after another: other plans, lengths and histories.
  std::vector<Session> Mixed() const {
    std::vector<Session> all;
    all.push_back(Make({}, 300, 1));
    all.push_back(Make(KeepPlan("70", "knorm"), 333, 2));
    all.push_back(Make(KeepPlan("30%", "knorm"), 200, 3));
    all.push_back(Make(KvzapPlan("50%", true), 250, 4));
    all.push_back(Make(KvzapPlan("tau=0", false), 180, 5));
    all.push_back(Make(KeepPlan("60", "streaming_llm"), 90, 6, /*pin=*/true));
    all.push_back(Make(KeepPlan("50%", "kvzip"), 128, 7));
    all.push_back(all[1].Fork());
    all.push_back(all[0].Fork());
    all.back().DropTail(130);
    all.push_back(Make(KeepPlan("40", "random"), 0, 8));
    all[2].Save(folder_ / "x.pith");
    all.push_back(Session::Load(*model_, folder_ / "x.pith", {.n_batch = 64, .n_threads = 1}));
    return all;
  }

  const testing::TempFolder folder_;
  std::unique_ptr<Model> model_;
};

std::vector<Session*> Pointers(std::vector<Session>& sessions) {
  std::vector<Session*> pointers;
  for (Session& session : sessions) pointers.push_back(&session);
  return pointers;
}

TEST_F(BatchTest, EachSessionIsAsAlone) {
  for (const int n_threads : {1, 2, 3}) {
    std::vector<Session> together = Mixed();
    std::vector<Session> alone = Mixed();
    const std::vector<Session*> pointers = Pointers(together);
    Batch batch(*model_, n_threads);
    Pairs pairs(alone.size());
    for (int step = 0; step < 120; ++step) {
      std::vector<Token> tokens;
      for (size_t i = 0; i < alone.size(); ++i) {
        tokens.push_back(Text(1, step * 100 + i)[0]);
        alone[i].Next(tokens[i]);
      }
      batch.Next(pointers, tokens);
      for (size_t i = 0; i < alone.size(); ++i) {
        // A key or a value may round to the other of two f16: rarely.
        pairs.ExpectTheSame(i, together[i], alone[i], 1e-3);
        ASSERT_FALSE(HasFailure()) << i << " at " << step;
        ASSERT_TRUE(std::ranges::equal(together[i].tokens(), alone[i].tokens())) << i;
      }
    }
    EXPECT_LE(pairs.mean_difference(), 1e-5);
  }
}

TEST_F(BatchTest, OneSessionIsNext) {
  Session together = Make(KeepPlan("70", "knorm"), 100, 1);
  Session alone = Make(KeepPlan("70", "knorm"), 100, 1);
  Batch batch(*model_, 1);
  Session* const pointer = &together;
  for (int step = 0; step < 60; ++step) {
    const Token token = Best(alone.logits());
    batch.Next({&pointer, 1}, {&token, 1});
    alone.Next(token);
    ASSERT_TRUE(std::ranges::equal(together.logits(), alone.logits())) << step;
  }
}

// Sessions come and go, and are read, cut and forked between steps.
TEST_F(BatchTest, WhoTakesPartMayChange) {
  std::vector<Session> together = Mixed();
  std::vector<Session> alone = Mixed();
  Batch batch(*model_, 2);
  Pairs pairs(alone.size());
  for (int step = 0; step < 40; ++step) {
    std::vector<Session*> pointers;
    std::vector<Token> tokens;
    for (size_t i = 0; i < alone.size(); ++i) {
      if ((step + i) % 3 == 0) continue;
      pointers.insert(pointers.begin(), &together[i]);
      tokens.insert(tokens.begin(), Text(1, step * 100 + i)[0]);
      alone[i].Next(tokens[0]);
    }
    batch.Next(pointers, tokens);
    for (auto* all : {&together, &alone}) {
      if (step == 10) (*all)[0].Read(Text(150, 9));
      if (step == 15) (*all)[3].DropTail(220);
      if (step == 20) (*all)[5] = (*all)[4].Fork();
      if (step == 25) (*all)[2].Next(17);
    }
    for (size_t i = 0; i < alone.size(); ++i) {
      if (alone[i].logits().empty()) continue;
      pairs.ExpectTheSame(i, together[i], alone[i], 1e-3);
      ASSERT_FALSE(HasFailure()) << i << " at " << step;
    }
  }
}

// What others are judged by, and who watches, is each session's own.
TEST_F(BatchTest, JudgesAndTapsSeeTheirOwnSession) {
  struct Seen {
    std::vector<float> queries;
    std::vector<float> hidden;
  };
  Plan judging = KeepPlan("50%", "knorm");
  judging.keep.fraction = 1;
  const SessionOptions options = {
      .n_batch = 64, .n_threads = 1, .n_ctx = 0, .also_judge = {KvzapPlan("50%", true)}};
  const ModelInfo& info = model_->info();
  const auto read = [&](bool batched) {
    std::vector<Session> sessions;
    std::vector<Seen> seen(3);
    for (int i = 0; i < 3; ++i) {
      sessions.emplace_back(*model_, judging, options);
      sessions.back().Read(Text(100 + 20 * i, i));
      Seen& own = seen[i];
      sessions.back().impl().SetQueryTap([&own, &info](int, int32_t, int n_tokens, const float* q) {
        own.queries.insert(own.queries.end(), q, q + n_tokens * info.n_heads * info.head_dim);
      });
      sessions.back().impl().SetHiddenTap(
          [&own, &info](int, int32_t, int n_tokens, const float* hidden) {
            own.hidden.insert(own.hidden.end(), hidden, hidden + n_tokens * info.n_embd);
          });
    }
    Batch batch(*model_, 2);
    for (int step = 0; step < 30; ++step) {
      const std::vector<Token> tokens = Text(3, step);
      if (batched) {
        batch.Next(Pointers(sessions), tokens);
      } else {
        for (int i = 0; i < 3; ++i) sessions[i].Next(tokens[i]);
      }
    }
    std::vector<std::vector<int64_t>> counts;
    for (Session& session : sessions)
      counts.push_back(Counts(session.Fork(KvzapPlan("50%", true))));
    return std::pair(seen, counts);
  };
  const auto [seen, counts] = read(true);
  const auto [seen_alone, counts_alone] = read(false);
  EXPECT_EQ(counts, counts_alone);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(seen[i].queries.size(), size_t{30} * info.n_layers * info.n_heads * info.head_dim);
    EXPECT_LE(Difference(seen[i].queries, seen_alone[i].queries), 1e-4);
    EXPECT_LE(Difference(seen[i].hidden, seen_alone[i].hidden), 1e-4);
  }
}

TEST_F(BatchTest, WhatCannotBeReadByAllIsReadByNone) {
  Plan limited;
  limited.kv_limit = 128 << 10;
  std::vector<Session> sessions;
  sessions.push_back(Make({}, 64, 1));
  sessions.push_back(sessions[0].Fork());  // its last page is shared until it is written to
  sessions.push_back(Make(KeepPlan("40", "knorm"), 100, 2));
  sessions.push_back(Make(limited, 64, 3));
  const std::vector<Session*> all = Pointers(sessions);
  Batch batch(*model_, 1);
  Session full(*model_, {}, {.n_batch = 64, .n_threads = 1, .n_ctx = 20});
  full.Read(Text(20, 4));
  const Model other_model = Model::Load(folder_ / "x.gguf");
  Session other(other_model);

  const auto expect_none_read = [&](ErrorCode code, const std::string& words,
                                    std::vector<Session*> pointers, std::vector<Token> tokens) {
    std::vector<Token> read;
    std::vector<std::vector<float>> logits;
    std::vector<uint64_t> bytes;
    for (const Session& session : sessions) {
      read.push_back(static_cast<Token>(session.n_read()));
      logits.emplace_back(session.logits().begin(), session.logits().end());
      bytes.push_back(session.stats().kv_bytes_shared);
    }
    ExpectError(code, words, [&] { batch.Next(pointers, tokens); });
    for (size_t i = 0; i < sessions.size(); ++i) {
      EXPECT_EQ(sessions[i].n_read(), read[i]) << words;
      EXPECT_TRUE(std::ranges::equal(sessions[i].logits(), logits[i])) << words;
      EXPECT_EQ(sessions[i].stats().kv_bytes_shared, bytes[i]) << words;
      EXPECT_EQ(sessions[i].stats().entries_full, 4 * read[i]) << words;
    }
  };
  const auto invalid = ErrorCode::kInvalidArgument;
  expect_none_read(invalid, "0 sessions", {}, {});
  expect_none_read(invalid, "2 sessions and 1 tokens", {all[0], all[1]}, {1});
  expect_none_read(invalid, "session 2 of a batch is session 0 again", {all[0], all[1], all[0]},
                   {1, 2, 3});
  expect_none_read(invalid, "another model", {all[0], &other}, {1, 2});
  expect_none_read(invalid, "context of 20", {all[0], &full}, {1, 2});
  expect_none_read(invalid, "outside the vocabulary", {all[0], all[1]}, {1, 100000});
  expect_none_read(invalid, "outside the vocabulary", {all[0], all[1]}, {1, -1});

  // The limit is met at a page's end, by the last of them, when the others have made room.
  for (;;) {
    try {
      batch.Next({&all[3], 1}, std::vector<Token>{1});
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kMemoryLimit);
      break;
    }
  }
  expect_none_read(ErrorCode::kMemoryLimit, "limit", all, {1, 2, 3, 4});
  all[2]->Cancel();
  expect_none_read(ErrorCode::kCancelled, "cancelled", {all[0], all[1], all[2]}, {1, 2, 3});

  Session twin = Make({}, 64, 1);
  twin.Next(5);
  batch.Next(std::span(all).first(3), std::vector<Token>{5, 6, 7});
  EXPECT_LE(Difference(sessions[0].logits(), twin.logits()), 1e-4);
}

TEST_F(BatchTest, ThreadsThatMakeNoSense) {
  ExpectError(ErrorCode::kInvalidArgument, "-1 threads", [&] { Batch(*model_, -1); });
}

TEST_F(BatchTest, TimeIsShared) {
  std::vector<Session> sessions;
  for (int i = 0; i < 4; ++i) sessions.push_back(Make({}, 50, i));
  Batch batch(*model_, 1);
  const auto start = std::chrono::steady_clock::now();
  for (int step = 0; step < 5; ++step) batch.Next(Pointers(sessions), Text(4, step));
  const double wall =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  double sum = 0;
  for (const Session& session : sessions) {
    const TimeStats times = session.times();
    EXPECT_EQ(times.next_tokens, 5);
    EXPECT_GT(times.attention_s, 0);
    EXPECT_DOUBLE_EQ(times.next_s, sessions[0].times().next_s);
    sum += times.next_s;
  }
  EXPECT_GT(sum, 0);
  EXPECT_LE(sum, wall);
}

// Without repacking a row's products do not depend on the others'. With it, several rows take
// another way than one, whose rounding is that of 8 bit activations.
TEST(Batch, RealModel) {
  const std::vector<Token> text = EssayTokens("worked", 400);
  for (const bool repack : {false, true}) {
    const Model model = Model::Load(PITH_TEST_MODEL, {.repack = repack});
    const auto make = [&] {
      std::vector<Session> sessions;
      for (int i = 0; i < 5; ++i) {
        const Plan plan = i % 2 == 1 ? KeepPlan("100", "knorm") : Plan();
        sessions.emplace_back(model, plan, SessionOptions{.n_batch = 128, .n_threads = 1});
        sessions.back().Read(std::span(text).subspan(20 * i, 100 + 20 * i));
      }
      return sessions;
    };
    std::vector<Session> together = make();
    std::vector<Session> alone = make();
    Batch batch(model, 1);
    Pairs pairs(alone.size());
    for (size_t step = 0; step < 20; ++step) {
      std::vector<Token> tokens;
      for (size_t i = 0; i < alone.size(); ++i) {
        tokens.push_back(text[350 + step + i]);
        alone[i].Next(tokens[i]);
      }
      batch.Next(Pointers(together), tokens);
      for (size_t i = 0; i < alone.size(); ++i) {
        pairs.ExpectTheSame(i, together[i], alone[i], repack ? 0.25 : 1e-6);
      }
    }
  }
}

}  // namespace
}  // namespace pith
