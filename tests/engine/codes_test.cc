// Sessions whose entries are stored as codes once they have left the window.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "engine/coded_sessions.h"
#include "engine/default_model.h"
#include "engine/greedy.h"
#include "engine/session_impl.h"
#include "engine/snapshot_bytes.h"
#include "pith/error.h"
#include "pith/session.h"
#include "pith/snapshot.h"
#include "tools/expect_error.h"

namespace pith::testing {
namespace {

// Positions of a head's exact entries.
std::vector<int32_t> ExactPositions(Session& session, int layer, int kv_head) {
  const Cache& cache = session.impl().cache;
  const auto positions = cache.Entries(layer, kv_head).positions;
  const auto exact = positions.last(static_cast<size_t>(cache.n_entries(layer, kv_head, 0)));
  return {exact.begin(), exact.end()};
}

void ForEachHead(const Session& session, const std::function<void(int layer, int h)>& visit) {
  const ModelInfo& info = session.model().info();
  for (int layer = 0; layer < info.n_layers; ++layer) {
    for (int h = 0; h < info.n_kv_heads; ++h) visit(layer, h);
  }
}

// Log-probabilities after each of the last `n` tokens. [n][n_vocab]
std::vector<std::vector<double>> LogProbs(Session& session, std::span<const Token> text, int n) {
  std::vector<std::vector<double>> out;
  ReadOptions options;
  options.on_logits = [&](int64_t position, std::span<const float> logits) {
    if (position < std::ssize(text) - n) return;
    const double max = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float x : logits) sum += std::exp(x - max);
    auto& row = out.emplace_back(logits.begin(), logits.end());
    for (double& x : row) x -= max + std::log(sum);
  };
  session.Read(text, options);
  return out;
}

TEST(Codes, PredictionsAreThoseOfF16InFewerBytes) {
  const auto text = EssayTokens("worked", 400);
  constexpr int kLast = 32;
  Plan plan = CodesPlan("100%", "f16", "f16");
  Session exact(DefaultModel(), plan, {.n_batch = 128});
  const auto wanted = LogProbs(exact, text, kLast);
  const struct {
    const char* codec;
    double divergence;  // mean, nats
    double bytes;       // of those in f16
  } cases[] = {{"q8", 0.01, 0.7}, {"q4", 0.06, 0.5}};
  for (const auto& [codec, divergence, bytes] : cases) {
    plan.key_codec = plan.value_codec = codec;
    Session session(DefaultModel(), plan, {.n_batch = 128});
    const auto found = LogProbs(session, text, kLast);
    double sum = 0;
    for (int i = 0; i < kLast; ++i) {
      for (size_t t = 0; t < wanted[i].size(); ++t) {
        sum += std::exp(wanted[i][t]) * (wanted[i][t] - found[i][t]);
      }
    }
    EXPECT_LE(sum / kLast, divergence) << codec;
    EXPECT_GT(sum / kLast, 1e-9) << codec;
    const CacheStats stats = session.stats();
    EXPECT_LE(static_cast<double>(stats.kv_bytes),
              bytes * static_cast<double>(exact.stats().kv_bytes))
        << codec;
    ASSERT_EQ(stats.tiers.size(), 2u);
    EXPECT_EQ(stats.tiers[1].key_codec, codec);
    EXPECT_EQ(stats.tiers[0].entries + stats.tiers[1].entries, stats.entries);
    EXPECT_EQ(stats.tiers[0].entries, 20 * stats.entries / 400);
    EXPECT_LE(stats.tiers[0].page_bytes + stats.tiers[1].page_bytes, stats.kv_bytes);
  }
}

TEST(Codes, SinksWindowAndWhatIsPinnedStayExact) {
  for (const char* keep : {"100%", "50%"}) {
    Session session(SmallModel(), CodesPlan(keep, "q8", "q8"), OneThread());
    const auto text = Noise(500);
    ReadOptions pinned;
    pinned.pin = true;
    session.Read(std::span(text).first(40), pinned);
    session.Read(std::span(text).subspan(40));
    ForEachHead(session, [&](int layer, int h) {
      std::vector<int32_t> positions = ExactPositions(session, layer, h), wanted;
      for (int i = 0; i < 500; ++i) {
        if (i < 40 || i >= 484) wanted.push_back(i);
      }
      std::sort(positions.begin(), positions.end());
      EXPECT_EQ(positions, wanted);
    });
  }
}

TEST(Codes, WritingMakesCodesOfWhatLeavesTheWindow) {
  for (const char* keep : {"100%", "200"}) {
    Session session(SmallModel(), CodesPlan(keep, "q8", "q4"), OneThread());
    session.Read(Noise(100));
    for (int i = 0; i < 300; ++i) {
      session.Next(static_cast<Token>(i % 250));
      ForEachHead(session, [&](int layer, int h) {
        ASSERT_LE(session.impl().cache.n_entries(layer, h, 0), 4 + 16 + 64);
      });
    }
    EXPECT_GT(session.stats().tiers[1].entries, session.stats().tiers[0].entries);
    session.DropTail(60);
    session.Read(Noise(200));
    EXPECT_EQ(session.n_read(), 260);
  }
}

TEST(Codes, ASnapshotHoldsThemAsTheyAre) {
  const auto file = Folder() / "codes.pith";
  Session saved(SmallModel(), CodesPlan("50%", "q8", "q4"), OneThread());
  saved.Read(Noise(700));
  Continue(saved, 40);
  ExpectToGoOnFrom(file, saved);

  const SnapshotInfo info = InspectSnapshot(file);
  ASSERT_EQ(info.tiers.size(), 2u);
  EXPECT_EQ(info.tiers[1].key_codec, "q8");
  EXPECT_EQ(info.tiers[1].value_codec, "q4");
  EXPECT_GT(info.tiers[1].entries, 4 * info.tiers[0].entries);
  EXPECT_LT(std::filesystem::file_size(file), 740u * 2 * 2 * 32 * 4);
}

TEST(Codes, ForksGoOnAsTheSessionDoesOrBeginFromF16) {
  Session coded(SmallModel(), CodesPlan("50%", "q8", "q8"), OneThread());
  coded.Read(Noise(600));
  Session fork = coded.Fork();
  EXPECT_EQ(Continue(fork, 100), Continue(coded, 100));
  EXPECT_EQ(Logits(fork), Logits(coded));
  ExpectError(ErrorCode::kInvalidArgument, "codecs 'f16/q8', the session has 'q8/q8'",
              [&] { coded.Fork(CodesPlan("50%", "f16", "q8")); });
  ExpectError(ErrorCode::kInvalidArgument, "codecs 'q8/q4', the session has 'q8/q8'",
              [&] { coded.Fork(CodesPlan("50%", "q8", "q4")); });

  Session exact(SmallModel(), CodesPlan("50%", "f16", "f16"), OneThread());
  exact.Read(Noise(600));
  const auto before = Logits(exact);
  Session codes = exact.Fork(CodesPlan("50%", "q4", "q8"));
  EXPECT_EQ(codes.stats().entries, exact.stats().entries);
  ForEachHead(codes,
              [&](int layer, int h) { EXPECT_EQ(ExactPositions(codes, layer, h).size(), 20u); });
  EXPECT_LT(codes.stats().kv_bytes - codes.stats().kv_bytes_shared, exact.stats().kv_bytes);
  Continue(codes, 20);
  EXPECT_EQ(Logits(exact), before);
}

TEST(Codes, ABudgetInBytesKeepsMoreOfThem) {
  const ModelInfo& info = SmallModel().info();
  const std::string bytes = std::to_string(30000 * info.n_layers * info.n_kv_heads) + "B";
  int64_t entries[2] = {};
  for (const bool coded : {false, true}) {
    const char* codec = coded ? "q4" : "f16";
    Session session(SmallModel(), CodesPlan(bytes, codec, codec), OneThread());
    session.Read(Noise(1500));
    EXPECT_LE(session.stats().kv_bytes, 30000u * info.n_layers * info.n_kv_heads * 11 / 10);
    entries[coded] = session.stats().entries;
  }
  EXPECT_GT(entries[1], 2 * entries[0]);
}

// What a repeat judges must be exact and in order, also after something was written.
TEST(Codes, RepeatsJudgeWhatIsStillExact) {
  Plan plan = CodesPlan("50%", "q8", "q8");
  plan.scorer = "kvzip";
  Session session(SmallModel(), plan, OneThread());
  session.Read(Noise(400));
  const int64_t coded = session.stats().tiers[1].entries;
  EXPECT_GT(coded, 0);
  Continue(session, 100);
  EXPECT_EQ(session.stats().tiers[1].entries, coded);
  session.Read(Noise(200));
  EXPECT_GT(session.stats().tiers[1].entries, coded);
  ForEachHead(session,
              [&](int layer, int h) { EXPECT_EQ(ExactPositions(session, layer, h).size(), 20u); });
}

TEST(Codes, BadNamesAndDamagedCountsAreRefused) {
  ExpectError(ErrorCode::kInvalidArgument, "codec 'q5' is not known",
              [] { Session(SmallModel(), CodesPlan("50%", "q5", "f16")); });
  const auto file = Folder() / "damaged.pith";
  Session saved(SmallModel(), CodesPlan("50%", "q8", "q8"), OneThread());
  saved.Read(Noise(300));
  saved.Save(file);
  const std::string bytes = ReadWhole(file);
  const auto refuse = [&](const std::string& from, const std::string& to, const std::string& word) {
    const std::string changed = ReplaceInManifest(bytes, from, to);
    ASSERT_NE(changed, bytes) << from;
    WriteWhole(file, changed);
    ExpectError(ErrorCode::kFormat, word, [&] { Session::Load(SmallModel(), file); });
    EXPECT_THROW(InspectSnapshot(file), Error);
  };
  const std::string count = std::to_string(saved.impl().cache.n_entries(0, 0, 1));
  const std::string begin = R"("codes":{"entries":[[)";
  refuse(R"("codes":{)", R"("coded":{)", "has no \"codes\"");
  refuse(begin + count, begin + "1000", "\"entries\"");
  refuse(begin + count, begin + "-1", "\"entries\"");
  refuse(begin + count, begin + "0", "pages");
  refuse(begin + count, begin + count + ",1", "in each tier");
  refuse(R"("n_stored":300)", R"("n_stored":301)", "\"n_stored\"");
  refuse(R"("key_codec":"q8")", R"("key_codec":"q4")", "pages");
  refuse(R"("key_codec":"q8")", R"("key_codec":"q9")", "codec 'q9' is not known");
}

}  // namespace
}  // namespace pith::testing
