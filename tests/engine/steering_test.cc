// A fraction that is kept by a threshold: while text is read, while it is written, and in whatever
// goes on from there.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "engine/default_model.h"
#include "engine/session_impl.h"
#include "engine/snapshot_bytes.h"
#include "pith/snapshot.h"
#include "tools/expect_error.h"
#include "tools/random_gguf.h"
#include "tools/random_kvzap.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::ExpectError;
using testing::TempFolder;

const TempFolder& Folder() {
  static const TempFolder folder;
  return folder;
}

const std::filesystem::path& SmallFile() {
  static const std::filesystem::path file = [] {
    testing::RandomGguf gguf;
    gguf.n_layers = 3;
    gguf.n_ctx = 4096;
    testing::WriteRandomGguf(gguf, Folder() / "small.gguf");
    return Folder() / "small.gguf";
  }();
  return file;
}

const Model& SmallModel() {
  static const Model model = Model::Load(SmallFile());
  return model;
}

std::shared_ptr<const Calibration> SmallCalibration() {
  static const auto calibration =
      std::make_shared<const Calibration>(testing::MakeRandomKvzap(SmallFile(), {}));
  return calibration;
}

Plan SmallPlan(const std::string& keep, const std::string& budget = "threshold") {
  Plan plan;
  plan.scorer = "kvzap";
  plan.keep = Keep::Parse(keep);
  plan.budget = budget;
  plan.window = 32;
  plan.calibration = SmallCalibration();
  return plan;
}

constexpr SessionOptions kSmallSteps = {.n_batch = 64, .n_threads = 1};

std::vector<Token> Text(size_t n, uint64_t state = 1) {
  std::vector<Token> tokens;
  for (size_t i = 0; i < n; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    tokens.push_back(static_cast<Token>((state >> 33) % 200));
  }
  return tokens;
}

double Kept(const Session& session) {
  const CacheStats stats = session.stats();
  return static_cast<double>(stats.entries) / static_cast<double>(stats.entries_full);
}

// Greedy tokens, which the session reads, keeping within `within` of `fraction`.
void Write(Session& session, int n, double fraction, double within) {
  for (int i = 0; i < n; ++i) {
    const auto logits = session.logits();
    session.Next(
        static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    EXPECT_NEAR(Kept(session), fraction, within) << "after " << i;
  }
}

TEST(Steering, RealTextEndsAtTheFractionAndWritingStaysThere) {
  Plan plan;
  plan.scorer = "kvzap";
  plan.keep = Keep::Parse("50%");
  plan.budget = "threshold";
  plan.calibration =
      std::make_shared<const Calibration>(Calibration::Load(PITH_DEFAULT_CALIBRATION));
  const std::vector<Token> text = EssayTokens("worked", 2048);
  const std::span<const Token> first = std::span(text).first(1536);
  Session start(DefaultModel(), plan, {.n_batch = 256, .n_threads = 1});
  start.Read(first);
  for (const char* keep : {"50%", "25%", "10%"}) {
    plan.keep = Keep::Parse(keep);
    const double fraction = plan.keep.fraction;
    Session session = start.Fork(plan);
    session.Read(std::span(text).subspan(first.size()));
    EXPECT_LE(Kept(session), fraction + 1e-3) << keep;
    EXPECT_GE(Kept(session), fraction - 0.01) << keep;
    Write(session, 100, fraction, 0.03);
  }
}

TEST(Steering, TheCacheGrowsWithWhatIsRead) {
  const std::vector<Token> text = Text(3000);
  for (const char* keep : {"50%", "25%", "10%"}) {
    const double fraction = Keep::Parse(keep).fraction;
    Session steered(SmallModel(), SmallPlan(keep), kSmallSteps);
    Session global(SmallModel(), SmallPlan(keep, "global"), kSmallSteps);
    ReadOptions options;
    options.progress = [&](int64_t done, int64_t) {
      if (done > 300) {
        // What is told after a chunk comes before what goes of it.
        const double chunk_and_window = (64.0 + 32 + 4) / static_cast<double>(done);
        EXPECT_LE(Kept(steered), fraction + chunk_and_window + 0.05) << keep << " at " << done;
        EXPECT_GE(Kept(steered), fraction - 0.05) << keep << " at " << done;
      }
      return true;
    };
    steered.Read(text, options);
    global.Read(text);
    EXPECT_EQ(steered.stats().entries, global.stats().entries) << keep;
    EXPECT_LE(steered.stats().kv_bytes_peak, global.stats().kv_bytes_peak * 11 / 10) << keep;
    // The same worths decide, so that nearly the same entries stay.
    int64_t n_same = 0;
    const ModelInfo& info = SmallModel().info();
    for (int layer = 0; layer < info.n_layers; ++layer) {
      for (int h = 0; h < info.n_kv_heads; ++h) {
        std::vector<int32_t> sets[2];
        for (int s = 0; s < 2; ++s) {
          const auto positions = (s ? global : steered).impl().cache.Entries(layer, h).positions;
          sets[s].assign(positions.begin(), positions.end());
          std::sort(sets[s].begin(), sets[s].end());
        }
        std::vector<int32_t> both;
        std::set_intersection(sets[0].begin(), sets[0].end(), sets[1].begin(), sets[1].end(),
                              std::back_inserter(both));
        n_same += std::ssize(both);
      }
    }
    EXPECT_GE(static_cast<double>(n_same), 0.6 * static_cast<double>(steered.stats().entries));
    Write(steered, 300, fraction, 0.03);
  }
}

TEST(Steering, SeveralReadsAndPinnedWordsCountTogether) {
  Session session(SmallModel(), SmallPlan("25%"), kSmallSteps);
  ReadOptions pin;
  pin.pin = true;
  session.Read(Text(40), pin);
  session.Read(Text(1500, 2));
  EXPECT_NEAR(Kept(session), 0.25, 0.005);
  session.Read(Text(30, 3), pin);
  session.Read(Text(500, 4));
  EXPECT_NEAR(Kept(session), 0.25, 0.005);
  for (const HeadStats& head : session.stats().heads) EXPECT_GE(head.entries, 40 + 30 + 32);
}

TEST(Steering, ForksAndLoadedSessionsSteerOnAlike) {
  const auto file = Folder() / "steered.pith";
  Session session(SmallModel(), SmallPlan("30%"), kSmallSteps);
  session.Read(Text(700));
  for (const Token token : Text(45, 2)) session.Next(token);
  session.Save(file);
  Session fork = session.Fork();
  Session loaded = Session::Load(SmallModel(), file, kSmallSteps, SmallCalibration());
  EXPECT_EQ(loaded.impl().steering->knowledge().quantiles,
            session.impl().steering->knowledge().quantiles);
  for (Session* other : {&fork, &loaded, &session}) {
    for (const Token token : Text(100, 3)) other->Next(token);
    other->Read(Text(400, 4));
    for (const Token token : Text(70, 5)) other->Next(token);
  }
  for (const Session* other : {&fork, &loaded}) {
    EXPECT_EQ(other->stats().entries, session.stats().entries);
    EXPECT_TRUE(std::ranges::equal(other->logits(), session.logits()));
  }
}

TEST(Steering, AForkWithAnotherFractionIsThereAtOnce) {
  Plan all = SmallPlan("50%");
  all.keep.fraction = 1;
  Session session(SmallModel(), all, kSmallSteps);
  session.Read(Text(1200));
  EXPECT_EQ(Kept(session), 1);
  for (const char* keep : {"40%", "20%"}) {
    Session fork = session.Fork(SmallPlan(keep));
    const double fraction = Keep::Parse(keep).fraction;
    EXPECT_NEAR(Kept(fork), fraction, 0.001);
    for (const Token token : Text(400, 2)) fork.Next(token);
    EXPECT_NEAR(Kept(fork), fraction, 0.03);
  }
}

TEST(Steering, OnlyWhereItIsAskedForAndThereAreQuantiles) {
  Plan plan = SmallPlan("25%", "auto");
  Session session(SmallModel(), plan, kSmallSteps);
  EXPECT_FALSE(session.impl().steering);
  session.Read(Text(1000));
  EXPECT_EQ(session.stats().entries, 250 * std::ssize(session.stats().heads));
  auto bare = std::make_shared<Calibration>(*SmallCalibration());
  bare->kvzap->quantiles.clear();
  plan = SmallPlan("25%");
  plan.calibration = bare;
  ExpectError(ErrorCode::kInvalidArgument, "quantiles",
              [&] { Session(SmallModel(), plan, kSmallSteps); });
}

TEST(Steering, DamagedKnowledgeIsRefused) {
  const auto file = Folder() / "damaged.pith";
  Session session(SmallModel(), SmallPlan("30%"), kSmallSteps);
  session.Read(Text(400));
  session.Save(file);
  std::ifstream in(file, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  const auto write = [&](const std::string& from, const std::string& to) {
    const std::string changed = testing::ReplaceInManifest(bytes, from, to);
    EXPECT_NE(changed, bytes) << from;
    std::ofstream(Folder() / "changed.pith", std::ios::binary) << changed;
  };
  const auto load = [&] {
    Session::Load(SmallModel(), Folder() / "changed.pith", kSmallSteps, SmallCalibration());
  };
  for (const char* start : {R"("quantiles":[1e30,)", R"("quantiles":["x",)",
                            R"("quantiles":[null,)", R"("quantiles":[1e300,)"}) {
    write(R"("quantiles":[)", start);
    ExpectError(ErrorCode::kFormat, "ascending numbers", load);
  }
  write(R"("quantiles":[)", R"("quantiles":[-1000,)");
  ExpectError(ErrorCode::kFormat, "258 \"quantiles\", expected 257", load);
  write(R"("weight":)", R"("weight":-)");
  ExpectError(ErrorCode::kFormat, "below zero", load);
  write(R"("weight":)", R"("height":)");
  ExpectError(ErrorCode::kFormat, "has no \"weight\"", load);
  write(R"("worths":)", R"("words":)");
  EXPECT_NO_THROW(load());
}

}  // namespace
}  // namespace pith
