// What compression does to memory, and that sessions survive refusals and interruptions.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#include "engine/default_model.h"
#include "engine/session_impl.h"
#include "pith/error.h"
#include "pith/session.h"

namespace pith {
namespace {

Plan KeepPlan(std::string_view keep, const std::string& scorer = "knorm") {
  Plan plan;
  plan.keep = Keep::Parse(keep);
  plan.scorer = scorer;
  return plan;
}

ErrorCode CodeOf(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.code();
  }
  ADD_FAILURE() << "no error";
  return ErrorCode::kIo;
}

// Tokens that mean nothing, as many as a test of memory needs.
std::vector<Token> Noise(size_t n) {
  std::vector<Token> tokens;
  for (size_t i = 0; i < n; ++i) tokens.push_back(static_cast<Token>(100 + i * 7919 % 40000));
  return tokens;
}

TEST(Compression, ScoredEntriesSinksAndWindowStay) {
  const auto tokens = EssayTokens("worked", 700);
  for (const std::string scorer : {"knorm", "random"}) {
    Plan plan = KeepPlan("200", scorer);
    plan.budget = "uniform";
    plan.skip_layers = 2;
    Session session(DefaultModel(), plan, {.n_batch = 100, .n_threads = 1});
    session.Read(tokens);
    const Cache& cache = session.impl().cache;
    for (int layer = 0; layer < DefaultModel().info().n_layers; ++layer) {
      for (int head = 0; head < DefaultModel().info().n_kv_heads; ++head) {
        const auto entries = cache.Entries(layer, head);
        std::vector<int32_t> positions(entries.positions.begin(), entries.positions.end());
        std::sort(positions.begin(), positions.end());
        ASSERT_EQ(std::unique(positions.begin(), positions.end()), positions.end());
        ASSERT_EQ(positions.size(), layer < 2 ? 700u : 200u);
        for (int i = 0; i < 4; ++i) ASSERT_EQ(positions[i], i);
        for (int i = 0; i < 128; ++i) ASSERT_EQ(positions[positions.size() - 1 - i], 699 - i);
      }
    }
  }
}

// The same entries stay however the text is cut, because worths do not depend on the chunk.
TEST(Compression, StreamingKeepsTheSameEntriesForAnyChunk) {
  const auto tokens = EssayTokens("worked", 400);
  for (const int n_batch : {33, 128, 400}) {
    Session session(DefaultModel(), KeepPlan("180", "streaming_llm"),
                    {.n_batch = n_batch, .n_threads = 1});
    session.Read(tokens);
    const auto entries = session.impl().cache.Entries(7, 1);
    std::vector<int32_t> positions(entries.positions.begin(), entries.positions.end());
    std::sort(positions.begin(), positions.end());
    ASSERT_EQ(positions.size(), 180u);
    EXPECT_EQ(positions[3], 3);
    EXPECT_EQ(positions[4], 400 - 176);
  }
}

TEST(Compression, GenerationStaysWithinTheBudget) {
  Session session(DefaultModel(), KeepPlan("160"), {.n_batch = 64, .n_threads = 1});
  session.Read(EssayTokens("worked", 300));
  for (const Token token : EssayTokens("avg", 100)) {
    session.Next(token);
    ASSERT_LE(session.impl().cache.n_entries(3, 2), 160 + 32);
  }
  EXPECT_EQ(session.n_read(), 400);
}

TEST(Compression, FractionsFollowWhatWasRead) {
  Session session(DefaultModel(), KeepPlan("50%"), {.n_batch = 128, .n_threads = 1});
  session.Read(EssayTokens("worked", 600));
  EXPECT_EQ(session.stats().entries, 300 * 90);
  session.Read(EssayTokens("avg", 200));
  EXPECT_EQ(session.stats().entries, 400 * 90);
  EXPECT_EQ(session.stats().entries_full, 800 * 90);
}

TEST(Compression, ABudgetInBytesHoldsForWhatIsAllocated) {
  for (const uint64_t mib : {8, 12}) {
    Session session(DefaultModel(), KeepPlan(std::to_string(mib) + "MiB"),
                    {.n_batch = 128, .n_threads = 1});
    session.Read(EssayTokens("worked", 900));
    EXPECT_LE(session.stats().kv_bytes, mib << 20);
    EXPECT_GE(session.stats().kv_bytes, (mib << 20) * 6 / 10);
  }
}

TEST(Session, TheMemoryLimitIsSaidAndTheSessionStaysUsable) {
  Plan plan = KeepPlan("160");
  plan.kv_limit = 12 << 20;
  Session session(DefaultModel(), plan, {.n_batch = 64, .n_threads = 1});
  session.Read(EssayTokens("worked", 600));
  EXPECT_LE(session.stats().kv_bytes_peak, plan.kv_limit);

  Plan whole;
  whole.kv_limit = 12 << 20;
  Session limited(DefaultModel(), whole, {.n_batch = 64, .n_threads = 1});
  EXPECT_EQ(CodeOf([&] { limited.Read(EssayTokens("worked", 600)); }), ErrorCode::kMemoryLimit);
  EXPECT_GT(limited.n_read(), 0);
  EXPECT_LT(limited.n_read(), 600);
  EXPECT_EQ(limited.n_read() % 64, 0);
  EXPECT_LE(limited.stats().kv_bytes_peak, whole.kv_limit);
}

TEST(Session, BadInputChangesNothing) {
  Session session(DefaultModel(), {}, {.n_batch = 32, .n_threads = 1, .n_ctx = 100});
  session.Read(EssayTokens("worked", 60));
  EXPECT_EQ(CodeOf([&] { session.Read(EssayTokens("worked", 41)); }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(CodeOf([&] { session.Next(49152); }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(CodeOf([&] { session.Next(-1); }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(session.n_read(), 60);
  session.Read(EssayTokens("worked", 40));
  EXPECT_EQ(session.n_read(), 100);
  EXPECT_EQ(CodeOf([&] { session.Next(5); }), ErrorCode::kInvalidArgument);
}

TEST(Session, PlansThatMakeNoSenseAreRefused) {
  const auto code = [](const Plan& plan, const SessionOptions& options = {}) {
    return CodeOf([&] { Session(DefaultModel(), plan, options); });
  };
  EXPECT_EQ(code(KeepPlan("100")), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(KeepPlan("512", "oracle")), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(KeepPlan("512", "qfilter")), ErrorCode::kInvalidArgument);
  Plan plan;
  plan.key_codec = "f15";
  EXPECT_EQ(code(plan), ErrorCode::kInvalidArgument);
  plan = KeepPlan("512");
  plan.skip_layers = 31;
  EXPECT_EQ(code(plan), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code({}, {.n_batch = 0}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code({}, {.n_threads = -1}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code({}, {.n_ctx = 8193}), ErrorCode::kInvalidArgument);
}

TEST(Session, CancelStopsReadingAndItGoesOnAfterwards) {
  const auto tokens = EssayTokens("worked", 300);
  Session session(DefaultModel(), {}, {.n_batch = 50, .n_threads = 1});
  ReadOptions options;
  options.progress = [&](int64_t done, int64_t) {
    if (done == 100) session.Cancel();  // as a signal handler would, in the middle of a read
    return true;
  };
  EXPECT_EQ(CodeOf([&] { session.Read(tokens, options); }), ErrorCode::kCancelled);
  EXPECT_EQ(session.n_read(), 100);
  session.Read(std::span(tokens).subspan(100));

  Session undisturbed(DefaultModel(), {}, {.n_batch = 50, .n_threads = 1});
  undisturbed.Read(tokens);
  EXPECT_TRUE(
      std::equal(session.logits().begin(), session.logits().end(), undisturbed.logits().begin()));

  options.progress = [](int64_t done, int64_t) { return done < 50; };
  EXPECT_EQ(CodeOf([&] { undisturbed.Read(tokens, options); }), ErrorCode::kCancelled);
  EXPECT_EQ(undisturbed.n_read(), 350);
}

TEST(Session, CancelFromAnotherThreadIsQuick) {
  Session session(DefaultModel(), {}, {.n_batch = 4096});
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    session.Cancel();
  });
  EXPECT_EQ(CodeOf([&] { session.Read(Noise(8000)); }), ErrorCode::kCancelled);
  other.join();
  EXPECT_LE(session.n_read(), 4096);
}

}  // namespace
}  // namespace pith
