// Sessions whose entries are stored by what they are worth.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "engine/coded_sessions.h"
#include "engine/greedy.h"
#include "engine/session_impl.h"
#include "engine/snapshot_bytes.h"
#include "pith/snapshot.h"
#include "tools/expect_error.h"
#include "tools/random_kvzap.h"

namespace pith::testing {
namespace {

constexpr char kThree[] = "f16:10%,q8:15%,pq8x16:50%";

Plan TiersPlan(const char* tiers, const char* budget = "auto") {
  static const auto calibration = WithCodebooks({"pq8x16"}, 1);
  Plan plan = CodesPlan("100%", "f16", "f16");
  plan.tiers = ParseTiers(tiers);
  plan.keep = KeepOf(plan.tiers);
  plan.budget = budget;
  plan.calibration = calibration;
  return plan;
}

int64_t Heads() { return int64_t{SmallModel().info().n_layers} * SmallModel().info().n_kv_heads; }

// Every entry of a group of heads that is better stored is worth at least as much as one that is
// stored worse, sinks and window left out.
void ExpectOrder(Session& session, const std::string& budget) {
  const Cache& cache = session.impl().cache;
  const ModelInfo& info = SmallModel().info();
  std::vector<float> least, most;  // of the group's tiers
  for (int layer = 0; layer < info.n_layers; ++layer) {
    for (int h = 0; h < info.n_kv_heads; ++h) {
      const bool begins = budget == "uniform" || (budget == "layer" && h == 0);
      if (begins || least.empty()) {
        least.assign(3, std::numeric_limits<float>::infinity());
        most.assign(3, -std::numeric_limits<float>::infinity());
      }
      const HeadEntries entries = cache.Entries(layer, h);
      int64_t i = 0;
      for (int tier = 2; tier >= 0; --tier) {
        for (const int64_t end = i + cache.n_entries(layer, h, tier); i < end; ++i) {
          const int32_t position = entries.positions[i];
          if (position < 4 || position >= session.n_read() - 16) continue;
          least[tier] = std::min(least[tier], entries.worth[i]);
          most[tier] = std::max(most[tier], entries.worth[i]);
        }
      }
      EXPECT_GE(least[0], most[1]) << budget << " " << layer << " " << h;
      EXPECT_GE(least[1], most[2]) << budget << " " << layer << " " << h;
    }
  }
}

TEST(Tiers, TheBestAreStoredBest) {
  for (const char* budget : {"global", "layer", "uniform"}) {
    Session session(SmallModel(), TiersPlan(kThree, budget), OneThread());
    session.Read(Noise(600));
    const CacheStats stats = session.stats();
    ASSERT_EQ(stats.tiers.size(), 3u);
    EXPECT_EQ(stats.tiers[0].entries, 60 * Heads());
    EXPECT_EQ(stats.tiers[1].entries, 90 * Heads());
    EXPECT_EQ(stats.tiers[2].entries, 300 * Heads());
    EXPECT_EQ(stats.tiers[2].key_codec, "pq8x16");
    EXPECT_EQ(stats.tiers[2].value_codec, "q4");
    ExpectOrder(session, budget);
    const uint64_t peak = stats.kv_bytes_peak;
    EXPECT_LE(peak, stats.kv_bytes + 200 * Heads() * 2 * 2 * 32) << "budget and one chunk";
  }
}

TEST(Tiers, WithoutAnExactShareOnlySinksAndWindowAreExact) {
  Session session(SmallModel(), TiersPlan("q8:20%,pq8x16:60%"), OneThread());
  session.Read(Noise(500));
  const CacheStats stats = session.stats();
  EXPECT_EQ(stats.tiers[0].entries, 20 * Heads());
  EXPECT_EQ(stats.tiers[1].entries, 80 * Heads()) << "with sinks and window a fifth";
  EXPECT_EQ(stats.tiers[2].entries, 300 * Heads());
  // One tier is a keep and its codecs.
  Session one(SmallModel(), TiersPlan("q8/q4:50%"), OneThread());
  one.Read(Noise(500));
  Session same(SmallModel(), CodesPlan("50%", "q8", "q4"), OneThread());
  same.Read(Noise(500));
  EXPECT_EQ(Continue(one, 80), Continue(same, 80));
  EXPECT_EQ(Logits(one), Logits(same));
}

TEST(Tiers, LayersLeftWholeAreAsTheFirstSays) {
  for (const char* tiers : {kThree, "q8:25%,pq8x16:50%"}) {
    Plan plan = TiersPlan(tiers);
    plan.skip_layers = 1;
    Session session(SmallModel(), plan, OneThread());
    session.Read(Noise(400));
    const bool exact = plan.tiers.size() == 3;
    EXPECT_EQ(session.impl().cache.n_entries(0, 0, 0), exact ? 400 : 20);
    EXPECT_EQ(session.impl().cache.n_entries(0, 0, 1), exact ? 0 : 380);
    EXPECT_EQ(session.impl().cache.n_entries(1, 0), 300);
  }
}

TEST(Tiers, AttentionIsThatOverWhatIsDecoded) {
  const auto text = Noise(500);
  Session tiered(SmallModel(), TiersPlan(kThree, "uniform"), OneThread());
  tiered.Read(text);
  Session exact(SmallModel(), CodesPlan("75%", "f16", "f16"), OneThread());
  exact.Read(text);
  Session decoded = exact.Fork();
  for (const size_t n : {1u, 40u}) {
    TakeDecoded(tiered, decoded);
    const auto more = Noise(n);
    for (Session* session : {&tiered, &decoded, &exact}) session->Read(more);
    const double moved = Apart(Logits(tiered), Logits(exact));
    EXPECT_LE(Apart(Logits(tiered), Logits(decoded)), 0.04 * moved) << n;
    EXPECT_GT(moved, 0.01);
  }
}

// Shares are of all that was read; what was moved down stays there.
TEST(Tiers, WritingGoesOnByShares) {
  Session session(SmallModel(), TiersPlan(kThree), OneThread());
  session.Read(Noise(300));
  Continue(session, 500);
  const CacheStats stats = session.stats();
  EXPECT_LE(stats.tiers[0].entries, (80 + 64) * Heads());
  EXPECT_LE(stats.tiers[0].entries + stats.tiers[1].entries, (200 + 64) * Heads());
  EXPECT_NEAR(static_cast<double>(stats.entries) / Heads(), 600, 40);
  EXPECT_GT(stats.tiers[2].entries, 300 * Heads());
}

TEST(Tiers, AnyScorerAndSteering) {
  for (const char* scorer : {"kvzip", "keydiff", "snapkv"}) {
    Plan plan = TiersPlan("f16:15%,q4:45%");
    plan.scorer = scorer;
    Session session(SmallModel(), plan, OneThread());
    session.Read(Noise(400));
    EXPECT_EQ(session.stats().tiers[0].entries, 60 * Heads()) << scorer;
    EXPECT_EQ(session.stats().tiers[1].entries, 180 * Heads()) << scorer;
    Continue(session, 100);
  }
  // A threshold decides what stays, and may let less stay than it could.
  Plan plan = TiersPlan("f16:15%,q4:45%", "threshold");
  plan.scorer = "kvzap";
  plan.calibration =
      std::make_shared<Calibration>(MakeRandomKvzap(Folder() / "model.gguf", RandomKvzap()));
  Session session(SmallModel(), plan, OneThread());
  session.Read(Noise(400));
  EXPECT_EQ(session.stats().tiers[0].entries, 60 * Heads());
  EXPECT_LE(session.stats().tiers[1].entries, 180 * Heads());
  EXPECT_GE(session.stats().tiers[1].entries, 140 * Heads());
}

TEST(Tiers, ASnapshotHoldsThemAsTheyAre) {
  const auto file = Folder() / "tiers.pith";
  const Plan plan = TiersPlan(kThree);
  Session saved(SmallModel(), plan, OneThread());
  saved.Read(Noise(700));
  Continue(saved, 40);
  ExpectToGoOnFrom(file, saved, plan.calibration);
  const std::string bytes = ReadWhole(file);

  const SnapshotInfo info = InspectSnapshot(file);
  ASSERT_EQ(info.tiers.size(), 3u);
  EXPECT_EQ(TiersToString(info.plan.tiers), "f16:10%,q8:15%,pq8x16/q4:50%");
  EXPECT_GT(info.tiers[2].entries, info.tiers[1].entries);
  ExpectError(ErrorCode::kInvalidArgument, "codebooks for pq8x16",
              [&] { Session::Load(SmallModel(), file, OneThread()); });
  const auto refuse = [&](const std::string& from, const std::string& to, const char* word) {
    const std::string changed = ReplaceInManifest(bytes, from, to);
    ASSERT_NE(changed, bytes) << from;
    WriteWhole(file, changed);
    ExpectError(ErrorCode::kFormat, word, [&] { InspectSnapshot(file); });
  };
  refuse(R"("tiers":"f16:10%,q8:15%,)", R"("tiers":"f16:10%,q8:95%,)", "at most 100%");
  refuse(R"("tiers":"f16:10%,q8:15%,)", R"("tiers":"f16:10%,q8:16%,)", "tiers");
  refuse(R"("tiers":"f16:10%,q8:15%,pq8x16/q4:50%")", R"("tiers":"f16:25%,pq8x16/q4:50%")",
         "those of 2 tiers, expected 1");
}

TEST(Tiers, ForksBeginFromF16OrGoOn) {
  Session tiered(SmallModel(), TiersPlan(kThree), OneThread());
  tiered.Read(Noise(400));
  Session fork = tiered.Fork(TiersPlan("f16:5%,q8:10%,pq8x16:25%"));
  EXPECT_EQ(fork.stats().entries, 160 * Heads());
  EXPECT_EQ(fork.stats().tiers[0].entries, 20 * Heads());
  ExpectError(ErrorCode::kInvalidArgument, "codecs 'q8/q8', the session has 'q8/q8, pq8x16/q4'",
              [&] { tiered.Fork(TiersPlan("f16:5%,q8:10%")); });
  Session exact(SmallModel(), CodesPlan("90%", "f16", "f16"), OneThread());
  exact.Read(Noise(400));
  Session begun = exact.Fork(TiersPlan(kThree));
  EXPECT_EQ(begun.stats().entries, 300 * Heads());
  EXPECT_EQ(begun.stats().tiers[2].entries, 200 * Heads());
}

TEST(Tiers, WhatMakesNoSenseIsRefused) {
  const auto refused = [](const Plan& plan, const char* word) {
    ExpectError(ErrorCode::kInvalidArgument, word, [&] { Session(SmallModel(), plan); });
  };
  refused(TiersPlan("q9:10%"), "codec 'q9' is not known");
  refused(TiersPlan("q4:10%,q8:20%"), "tiers get smaller from first to last, but q8/q8 takes");
  refused(TiersPlan("f16:10%,f16:20%"), "f16/f16 takes 128 bytes an entry after one of 128");
  refused(TiersPlan("q8:1%,q8/q4:1%,q4:1%,pq8x16:1%"), "5 tiers, the exact one");
  Plan plan = TiersPlan(kThree);
  plan.calibration = nullptr;
  refused(plan, "none are given");
  plan = TiersPlan(kThree);
  plan.keep.fraction = 0.5;
  refused(plan, "but the plan says to keep 50% as f16/f16");
  plan = TiersPlan(kThree);
  plan.key_codec = "q8";
  refused(plan, "as q8/f16");
  plan = TiersPlan("q8:50%");
  plan.tiers[0].share = NAN;
  refused(plan, "makes no sense");
}

}  // namespace
}  // namespace pith::testing
