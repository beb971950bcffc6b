// Sessions that branch: forks share what was read, and a dropped tail leaves no trace.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/default_model.h"
#include "engine/greedy.h"
#include "engine/session_impl.h"
#include "pith/error.h"
#include "pith/session.h"

namespace pith {
namespace {

using testing::Continue;
using testing::Logits;
using testing::OneThread;

Plan KeepPlan(std::string_view keep, const std::string& scorer = "knorm") {
  Plan plan;
  plan.keep = Keep::Parse(keep);
  plan.scorer = scorer;
  plan.window = 16;
  return plan;
}

// Every entry of a session's cache: positions, worths and bytes.
struct Contents {
  std::vector<int32_t> positions;
  std::vector<float> worth;
  std::vector<float> rows;
  bool operator==(const Contents&) const = default;
};

Contents ContentsOf(Session& session) {
  const Cache& cache = session.impl().cache;
  const CacheShape& shape = cache.shape();
  Contents contents;
  std::vector<float> row(static_cast<size_t>(2 * shape.head_dim));
  for (int layer = 0; layer < shape.n_layers; ++layer) {
    for (int h = 0; h < shape.n_kv_heads; ++h) {
      const auto entries = cache.Entries(layer, h);
      contents.positions.insert(contents.positions.end(), entries.positions.begin(),
                                entries.positions.end());
      contents.worth.insert(contents.worth.end(), entries.worth.begin(), entries.worth.end());
      for (int64_t i = 0; i < cache.n_entries(layer, h); ++i) {
        cache.Read(layer, h, i, row.data(), row.data() + shape.head_dim);
        contents.rows.insert(contents.rows.end(), row.begin(), row.end());
      }
    }
  }
  return contents;
}

void ExpectRefused(const std::function<void()>& action, const std::string& word) {
  try {
    action();
    ADD_FAILURE() << "not refused: " << word;
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument) << e.what();
    EXPECT_NE(std::string(e.what()).find(word), std::string::npos) << e.what();
  }
}

TEST(Fork, GoesOnAsItsParentWouldAndNeitherSeesTheOther) {
  const auto text = EssayTokens("worked", 250);
  const auto other = EssayTokens("nft", 60);
  Session parent(DefaultModel(), KeepPlan("25%"), OneThread());
  parent.Read(text);
  const Contents before = ContentsOf(parent);
  Session fork = parent.Fork();
  EXPECT_EQ(fork.n_read(), 250);
  EXPECT_EQ(Logits(fork), Logits(parent));
  EXPECT_TRUE(std::ranges::equal(fork.tokens(), parent.tokens()));
  EXPECT_EQ(fork.times().read_tokens, 0);
  const CacheStats stats = fork.stats();
  EXPECT_GE(stats.kv_bytes_shared, stats.kv_bytes * 9 / 10);
  fork.Read(other);
  EXPECT_TRUE(ContentsOf(parent) == before);

  Session alone(DefaultModel(), KeepPlan("25%"), OneThread());
  alone.Read(text);
  const auto wanted = Continue(alone, 20);
  EXPECT_EQ(Continue(parent, 20), wanted);
  EXPECT_EQ(Logits(parent), Logits(alone));
  EXPECT_TRUE(ContentsOf(parent) == ContentsOf(alone));
}

TEST(Fork, OutlivesItsParentAndCanBeForkedAgain) {
  const auto text = EssayTokens("worked", 300);
  std::vector<Session> forks;
  std::vector<Token> wanted;
  {
    Session parent(DefaultModel(), KeepPlan("50%"), OneThread());
    parent.Read(text);
    forks.push_back(parent.Fork());
    forks.push_back(forks[0].Fork());
    wanted = Continue(parent, 20);
  }
  forks.push_back(forks[1].Fork());
  for (Session& fork : forks) EXPECT_EQ(Continue(fork, 20), wanted);
}

TEST(Fork, BranchesRunInThreadsOfTheirOwn) {
  const auto text = EssayTokens("worked", 300);
  Session parent(DefaultModel(), KeepPlan("50%"), OneThread());
  parent.Read(text);
  std::vector<Session> forks;
  for (int i = 0; i < 3; ++i) forks.push_back(parent.Fork());
  std::vector<std::vector<Token>> found(3);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&, i] { found[i] = Continue(forks[i], 12); });
  }
  const auto wanted = Continue(parent, 12);
  for (std::thread& thread : threads) thread.join();
  for (const auto& each : found) EXPECT_EQ(each, wanted);
}

TEST(Fork, AnotherKeepIsAppliedAtOnce) {
  const auto text = EssayTokens("worked", 200);
  Plan everything = KeepPlan("25%");
  everything.keep.fraction = 1.0;
  Session read(DefaultModel(), everything, {.n_batch = 200, .n_threads = 1});
  read.Read(text);
  const Contents before = ContentsOf(read);
  for (const char* keep : {"50%", "40"}) {
    Session fork = read.Fork(KeepPlan(keep));
    Session direct(DefaultModel(), KeepPlan(keep), {.n_batch = 200, .n_threads = 1});
    direct.Read(text);
    EXPECT_EQ(fork.stats().entries, direct.stats().entries) << keep;
    EXPECT_EQ(fork.plan().keep.ToString(), keep);
    Contents a = ContentsOf(fork), b = ContentsOf(direct);
    std::sort(a.positions.begin(), a.positions.end());
    std::sort(b.positions.begin(), b.positions.end());
    EXPECT_EQ(a.positions, b.positions) << keep;
    EXPECT_LE(fork.stats().kv_bytes_peak, read.stats().kv_bytes * 105 / 100);
  }
  EXPECT_TRUE(ContentsOf(read) == before);
}

// One reading serves scorers of keys, of hidden states and of a repeat pass.
TEST(Fork, GoesOnWithAnyScorerThatJudgedAlong) {
  const auto text = EssayTokens("worked", 120);
  const auto calibration =
      std::make_shared<const Calibration>(Calibration::Load(PITH_DEFAULT_CALIBRATION));
  std::vector<Plan> plans;
  for (const char* scorer : {"knorm", "kvzap", "qfilter", "kvzip", "kvzip+"}) {
    plans.push_back(KeepPlan("40%", scorer));
    plans.back().calibration = calibration;
  }
  const auto read = [&](Plan own, std::vector<Plan> also_judge) {
    own.keep.fraction = 1.0;
    Session session(DefaultModel(), own,
                    {.n_batch = 50, .n_threads = 1, .n_ctx = 0, .also_judge = also_judge});
    ReadOptions pinned;
    pinned.pin = true;
    session.Read(std::span(text).first(7), pinned);
    session.Read(std::span(text).subspan(7));
    return session;
  };
  std::vector<Contents> expected;
  for (const Plan& plan : plans) {
    Session alone = read(plan, {});
    Session fork = alone.Fork(plan);
    expected.push_back(ContentsOf(fork));
  }
  for (const size_t own : {size_t{0}, size_t{3}}) {
    Session session = read(plans[own], plans);
    Session copy = session.Fork();
    for (size_t i = 0; i < plans.size(); ++i) {
      Session fork = (i % 2 == 0 ? copy : session).Fork(plans[i]);
      EXPECT_EQ(fork.plan().scorer, plans[i].scorer);
      EXPECT_TRUE(ContentsOf(fork) == expected[i]) << plans[i].scorer;
    }
    Plan other = plans[0];
    other.scorer = "streaming_llm";
    ExpectRefused([&] { session.Fork(other); }, "scorer");
    other = plans[0];
    other.keep = Keep::Parse("54");
    other.window = 50;
    // The pinned and the window, which is another one than when the text was read.
    EXPECT_EQ(session.Fork(other).stats().entries,
              int64_t{57} * static_cast<int64_t>(session.stats().heads.size()));
  }
  SessionOptions options;
  options.also_judge = plans;
  ExpectRefused([&] { Session(DefaultModel(), KeepPlan("25%"), options); }, "judge along");
}

TEST(Fork, WhatWasJudgedOtherwiseIsRefused) {
  const auto text = EssayTokens("worked", 50);
  Session session(DefaultModel(), KeepPlan("50%"), OneThread());
  session.Read(text);
  Plan plan = KeepPlan("25%", "random");
  ExpectRefused([&] { session.Fork(plan); }, "scorer");
  plan = KeepPlan("25%");
  plan.sinks = 5;
  ExpectRefused([&] { session.Fork(plan); }, "sinks");
  plan = KeepPlan("25%");
  plan.skip_layers = 1;
  ExpectRefused([&] { session.Fork(plan); }, "skip_layers");
  Session whole(DefaultModel(), {}, OneThread());
  whole.Read(text);
  ExpectRefused([&] { whole.Fork(KeepPlan("25%")); }, "keeps everything");
  Session rest = session.Fork(Plan{});
  EXPECT_EQ(rest.stats().entries, session.stats().entries);
  ExpectRefused([&] { rest.Fork(KeepPlan("25%")); }, "keeps everything");
  session.Read(text);  // still usable
}

TEST(DropTail, AskingAgainEqualsAskingFirst) {
  const auto text = EssayTokens("worked", 250);
  const auto first = EssayTokens("nft", 30);
  const auto second = EssayTokens("avg", 30);
  // By a number of entries the window would push some out for the first question's sake: a fork or
  // a threshold is for that. Keeping all, nothing is lost.
  Session session(DefaultModel(), {}, OneThread());
  session.Read(text);
  const Contents before = ContentsOf(session);
  Session direct = session.Fork();
  session.Read(first);
  Continue(session, 10);
  session.DropTail(250);
  EXPECT_EQ(session.n_read(), 250);
  EXPECT_TRUE(session.logits().empty());
  EXPECT_TRUE(ContentsOf(session) == before);
  EXPECT_TRUE(std::ranges::equal(session.tokens(), text));
  session.Read(second);
  direct.Read(second);
  EXPECT_EQ(Continue(session, 20), Continue(direct, 20));
  EXPECT_EQ(Logits(session), Logits(direct));
}

TEST(DropTail, KeepsWhatACompressedSessionHasLeft) {
  const auto text = EssayTokens("worked", 250);
  const auto question = EssayTokens("nft", 30);
  // Pinning keeps the budget from settling, so that the question evicts nothing.
  Session session(DefaultModel(), KeepPlan("25%"), OneThread());
  session.Read(text);
  const Contents before = ContentsOf(session);
  ReadOptions pinned;
  pinned.pin = true;
  session.Read(question, pinned);
  EXPECT_EQ(session.stats().entries, static_cast<int64_t>(before.positions.size()) + 30 * 90);
  session.DropTail(250);
  EXPECT_TRUE(ContentsOf(session) == before);
  session.DropTail(200);
  EXPECT_EQ(session.n_read(), 200);
  for (const int32_t position : ContentsOf(session).positions) ASSERT_LT(position, 200);
  session.Read(question);
  EXPECT_EQ(session.n_read(), 230);
  session.DropTail(0);
  EXPECT_EQ(session.stats().entries, 0);
  EXPECT_EQ(session.stats().kv_bytes_shared, 0u);
  session.Read(text);
  EXPECT_TRUE(ContentsOf(session) == before);
}

TEST(DropTail, KeepsLogitsWhenNothingIsDroppedAndRefusesWhatWasNotRead) {
  Session session(DefaultModel(), {}, OneThread());
  session.Read(EssayTokens("worked", 20));
  const auto logits = Logits(session);
  session.DropTail(20);
  EXPECT_EQ(Logits(session), logits);
  ExpectRefused([&] { session.DropTail(21); }, "20");
  ExpectRefused([&] { session.DropTail(-1); }, "-1");
  EXPECT_EQ(session.n_read(), 20);
}

}  // namespace
}  // namespace pith
