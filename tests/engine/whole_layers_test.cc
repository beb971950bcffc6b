// Sessions whose scorer judges whole layers anew: what it is shown, and what becomes of it when
// sessions are forked, saved, interrupted or cut back.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/layer_judge.h"
#include "engine/session_impl.h"
#include "model/model_impl.h"
#include "pith/batch.h"
#include "tools/expect_error.h"
#include "tools/random_gguf.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::ExpectError;
using testing::TempFolder;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

const std::vector<std::string>& Names() {
  static const std::vector<std::string> names = {
      "snapkv", "tova", "keydiff", "expected", "expected_calibrated", "qfilter+"};
  return names;
}

// "llama" has interleaved RoPE pairs, "qwen2" half-split ones.
const Model& SmallModel(const std::string& architecture = "llama") {
  static const TempFolder folder;
  static std::map<std::string, Model> models;
  const auto found = models.find(architecture);
  if (found != models.end()) return found->second;
  testing::RandomGguf gguf;
  gguf.architecture = architecture;
  gguf.n_layers = 3;
  gguf.n_ctx = 1024;
  testing::WriteRandomGguf(gguf, folder / (architecture + ".gguf"));
  return models.emplace(architecture, Model::Load(folder / (architecture + ".gguf"))).first->second;
}

std::vector<Token> Text(size_t n, uint64_t seed = 1) {
  std::vector<Token> tokens;
  uint64_t state = seed;
  for (size_t i = 0; i < n; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    tokens.push_back(static_cast<Token>((state >> 33) % 200));
  }
  return tokens;
}

std::shared_ptr<const Calibration> MakeCalibration(const Model& model) {
  std::string corpus;
  for (int i = 0; i < 600; ++i) corpus += static_cast<char>('a' + i * i % 26);
  CalibrateOptions options;
  options.n_sequences = 4;
  options.sequence_tokens = 100;
  options.rows_per_head = 300;
  options.n_threads = 1;
  return std::make_shared<Calibration>(Calibrate(model, {{corpus}}, options));
}

// "judged": everything stays, but has a worth.
Plan KeepPlan(const std::string& scorer, const std::string& keep,
              const Model& model = SmallModel()) {
  static std::map<std::string, std::shared_ptr<const Calibration>> calibrations;
  Plan plan;
  plan.scorer = scorer;
  plan.keep = keep == "judged" ? Keep{.kind = Keep::Kind::kFraction} : Keep::Parse(keep);
  plan.window = 16;
  plan.budget = "uniform";
  if (scorer == "expected_calibrated" || scorer == "qfilter+") {
    auto& calibration = calibrations[model.info().architecture];
    if (!calibration) calibration = MakeCalibration(model);
    plan.calibration = calibration;
  }
  return plan;
}

SessionOptions Options(int n_batch = 64, int n_threads = 1) {
  return {.n_batch = n_batch, .n_threads = n_threads};
}

// Of all heads: positions in order, and the worth of each.
using Contents = std::vector<std::map<int32_t, float>>;
Contents ContentsOf(Session& session) {
  const CacheShape& shape = session.impl().cache.shape();
  Contents contents;
  for (int layer = 0; layer < shape.n_layers; ++layer) {
    for (int h = 0; h < shape.n_kv_heads; ++h) {
      const HeadEntries entries = session.impl().cache.Entries(layer, h);
      auto& head = contents.emplace_back();
      for (size_t i = 0; i < entries.positions.size(); ++i) {
        head[entries.positions[i]] = entries.worth[i];
      }
    }
  }
  return contents;
}

void ExpectNear(const Contents& got, const Contents& want, double tolerance,
                const std::string& what) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t head = 0; head < got.size(); ++head) {
    ASSERT_EQ(got[head].size(), want[head].size()) << what << " " << head;
    for (const auto& [position, worth] : want[head]) {
      ASSERT_TRUE(got[head].contains(position)) << what << " " << head << " " << position;
      if (got[head].at(position) == worth) continue;  // may be infinite
      const double error = std::abs(double{got[head].at(position)} - worth);
      EXPECT_FALSE(!(error <= tolerance * std::abs(worth)))
          << what << " " << head << " " << position << ": " << got[head].at(position) << " and not "
          << worth;
    }
  }
}

// Queries as attention sees them. [layer][token] of [n_heads * head_dim]
using Queries = std::vector<std::vector<std::vector<float>>>;

void Record(Session& session, Queries& queries) {
  const ModelInfo& info = session.model().info();
  queries.resize(static_cast<size_t>(info.n_layers));
  const size_t row = size_t{1} * info.n_heads * info.head_dim;
  session.impl().SetQueryTap([&queries, row](int layer, int32_t first, int n, const float* q) {
    auto& tokens = queries[static_cast<size_t>(layer)];
    tokens.resize(static_cast<size_t>(first));
    for (int t = 0; t < n; ++t) tokens.emplace_back(q + t * row, q + (t + 1) * row);
  });
}

// What the session's scorer finds in its cache when it is shown these queries, `n_moments` of them
// in moments.
Contents Judged(Session& session, const Queries& queries, size_t n_moments) {
  const ModelInfo& info = session.model().info();
  const Rope& rope = *session.model().impl().rope;
  const auto scorer = MakeScorer(session.plan(), info);
  const Needs needs = scorer->needs();
  const size_t dim = static_cast<size_t>(info.head_dim);
  const size_t n_read = queries[0].size();
  Contents contents;
  for (int layer = 0; layer < info.n_layers; ++layer) {
    LayerEvidence evidence;
    evidence.layer = layer;
    evidence.group = info.n_heads / info.n_kv_heads;
    evidence.n_sinks = session.plan().sinks;
    evidence.window_begin = static_cast<int32_t>(n_read) - session.plan().window;
    std::vector<int32_t> positions;
    std::vector<float> asked;
    const size_t n_recent = std::min<size_t>(n_read, static_cast<size_t>(needs.recent_queries));
    for (size_t t = n_read - n_recent; t < n_read; ++t) {
      positions.push_back(static_cast<int32_t>(t));
      asked.insert(asked.end(), queries[layer][t].begin(), queries[layer][t].end());
    }
    evidence.query_positions = positions;
    evidence.queries = {asked.data(), n_recent, info.n_heads * dim, info.n_heads * dim};
    std::vector<QueryMoments> moments;
    if (needs.query_moments) {
      moments.assign(static_cast<size_t>(info.n_heads), QueryMoments(dim));
      for (size_t t = static_cast<size_t>(evidence.n_sinks); t < n_moments; ++t) {
        const Rotation rotation = rope.At(static_cast<int64_t>(t));
        std::vector<float> row = queries[layer][t];
        for (size_t head = 0; head < moments.size(); ++head) {
          rotation.TurnBack(row.data() + head * dim);
          moments[head].Add({row.data() + head * dim, 1, dim, dim});
        }
      }
    }
    evidence.moments = moments;
    if (needs.future_positions > 0) {
      evidence.future = rope.Mean(static_cast<int64_t>(n_read), needs.future_positions);
    }
    std::vector<std::vector<float>> keys, values, worth;
    std::vector<Entries> heads;
    for (int h = 0; h < info.n_kv_heads; ++h) {
      const HeadEntries held = session.impl().cache.Entries(layer, h);
      const size_t n = held.positions.size();
      keys.emplace_back(n * dim);
      values.emplace_back(n * dim);
      worth.emplace_back(n);
      for (size_t i = 0; i < n; ++i) {
        session.impl().cache.Read(layer, h, static_cast<int64_t>(i), keys.back().data() + i * dim,
                                  values.back().data() + i * dim);
      }
      heads.push_back({layer,
                       h,
                       held.positions,
                       {keys.back().data(), n, dim, dim},
                       {values.back().data(), n, dim, dim}});
    }
    evidence.heads = heads;
    std::vector<std::span<float>> spans(worth.begin(), worth.end());
    scorer->JudgeLayer(evidence, spans);
    for (size_t h = 0; h < heads.size(); ++h) {
      auto& head = contents.emplace_back();
      for (size_t i = 0; i < worth[h].size(); ++i) head[heads[h].positions[i]] = worth[h][i];
    }
  }
  return contents;
}

TEST(WholeLayers, AreJudgedByTheQueriesThatWereAsked) {
  const auto text = Text(300);
  for (const auto& [architecture, n_batch] : {std::pair("llama", 47), std::pair("qwen2", 300)}) {
    for (const std::string& name : Names()) {
      const Model& model = SmallModel(architecture);
      Session session(model, KeepPlan(name, "judged", model), Options(n_batch));
      Queries queries;
      Record(session, queries);
      session.Read(text);
      const Contents got = ContentsOf(session);
      ExpectNear(got, Judged(session, queries, 300), 2e-4, architecture + (" " + name));
      // Written text counts as well, in moments by runs of 32 tokens.
      for (const Token token : Text(40, 5)) session.Next(token);
      session.impl().SettleNow();
      ExpectNear(ContentsOf(session), Judged(session, queries, 332), 2e-4, name + " written");
    }
  }
}

TEST(WholeLayers, TheBudgetIsMetAndTheBestOfTheWholePromptStay) {
  const auto text = Text(400);
  for (const std::string& name : Names()) {
    Session whole(SmallModel(), KeepPlan(name, "judged"), Options(400, 2));
    whole.Read(text);
    const Contents worth = ContentsOf(whole);
    Session session(SmallModel(), KeepPlan(name, "25%"), Options(400));
    session.Read(text);
    const Contents kept = ContentsOf(session);
    for (size_t head = 0; head < kept.size(); ++head) {
      ASSERT_EQ(kept[head].size(), 100u) << name;
      std::vector<float> rivals;  // of the places that are neither sinks' nor the window's
      for (const auto& [position, w] : worth[head]) {
        if (position >= 4 && position < 384) rivals.push_back(w);
      }
      std::nth_element(rivals.begin(), rivals.begin() + 79, rivals.end(), std::greater<>());
      for (const auto& [position, w] : worth[head]) {
        const bool is_protected = position < 4 || position >= 384;
        if (w == rivals[79] && !is_protected) continue;
        EXPECT_EQ(kept[head].contains(position), is_protected || w > rivals[79])
            << name << " " << head << " " << position;
      }
    }
    for (const int n_batch : {33, 100}) {
      Session chunked(SmallModel(), KeepPlan(name, "25%"), Options(n_batch));
      chunked.Read(text);
      EXPECT_EQ(chunked.stats().entries, 100 * 6) << name;
      for (const auto& head : ContentsOf(chunked)) {
        for (const auto& [position, w] : head) EXPECT_TRUE(std::isfinite(w)) << name;
      }
      for (const Token token : Text(60, 3)) {
        chunked.Next(token);
        ASSERT_LE(chunked.stats().entries, (115 + 32) * 6) << name;
      }
    }
  }
}

TEST(WholeLayers, WhatIsPinnedStaysPinned) {
  const auto opening = Text(40, 9);
  for (const std::string& name : Names()) {
    Session session(SmallModel(), KeepPlan(name, "80"), Options());
    session.Read(opening, {.pin = true});
    session.Read(Text(300));
    for (const auto& head : ContentsOf(session)) {
      ASSERT_EQ(head.size(), 80u) << name;
      for (const auto& [position, worth] : head) EXPECT_EQ(worth == kInfinity, position < 40);
      for (int32_t p = 0; p < 40; ++p) EXPECT_TRUE(head.contains(p)) << name;
    }
  }
}

TEST(WholeLayers, NobodyElsePaysForQueries) {
  for (const std::string name : {"knorm", "keydiff", "expected_calibrated", "qfilter+"}) {
    EXPECT_FALSE(Session(SmallModel(), KeepPlan(name, "25%")).impl().queries) << name;
  }
  EXPECT_FALSE(Session(SmallModel(), KeepPlan("snapkv", "100%")).impl().queries);
  EXPECT_TRUE(Session(SmallModel(), KeepPlan("tova", "25%")).impl().queries);
}

TEST(WholeLayers, AForkGoesOnAsItsParentWould) {
  for (const std::string& name : Names()) {
    Session parent(SmallModel(), KeepPlan(name, "25%"), Options());
    parent.Read(Text(300));
    Session fork = parent.Fork();
    for (Session* session : {&parent, &fork}) session->Read(Text(200, 2));
    ExpectNear(ContentsOf(fork), ContentsOf(parent), 0, name);
  }
}

TEST(WholeLayers, OneReadingIsJudgedByMany) {
  const auto text = Text(300);
  Plan reading = KeepPlan("knorm", "judged");
  SessionOptions options = Options(128);
  for (const std::string& name : Names()) options.also_judge.push_back(KeepPlan(name, "judged"));
  Session reader(SmallModel(), reading, options);
  reader.Read(Text(30, 8), {.pin = true});
  reader.Read(text);
  Session again = reader.Fork();
  for (const std::string& name : Names()) {
    const Plan plan = KeepPlan(name, "30%");
    Session own(SmallModel(), KeepPlan(name, "judged"), Options(128));
    own.Read(Text(30, 8), {.pin = true});
    own.Read(text);
    Session wanted = own.Fork(plan);
    for (Session* from : {&reader, &again}) {
      Session fork = from->Fork(plan);
      EXPECT_EQ(fork.stats().entries, 99 * 6);
      ExpectNear(ContentsOf(fork), ContentsOf(wanted), 1e-5, name);
    }
  }
}

TEST(WholeLayers, ALoadedSessionKeepsItsWorthsUntilEnoughIsAsked) {
  const TempFolder folder;
  for (const std::string& name : Names()) {
    Session saved(SmallModel(), KeepPlan(name, "judged"), Options());
    saved.Read(Text(300));
    saved.Save(folder / "x.pith");
    const Plan plan = KeepPlan(name, "25%");
    Session loaded = Session::Load(SmallModel(), folder / "x.pith", Options(), plan.calibration);
    const Contents before = ContentsOf(saved);
    ExpectNear(ContentsOf(loaded), before, 0, name);
    Session smaller = saved.Fork(plan);
    Session loaded_smaller = loaded.Fork(plan);
    ExpectNear(ContentsOf(loaded_smaller), ContentsOf(smaller), 1e-5, name);

    loaded.Read(Text(20, 2));
    saved.Read(Text(20, 2));
    const bool asks = QueryMemory::IsAskedFor(MakeScorer(plan, SmallModel().info())->needs());
    const bool waits = asks && name != "tova";  // which needs but one query
    const Contents after = ContentsOf(loaded);
    if (waits) {
      for (size_t head = 0; head < before.size(); ++head) {
        for (const auto& [position, worth] : before[head]) {
          EXPECT_EQ(after[head].at(position), worth) << name;
        }
        EXPECT_EQ(after[head].at(310), kUnjudged) << name;
      }
    } else {
      ExpectNear(after, ContentsOf(saved), 1e-5, name);
    }
    loaded.Read(Text(60, 3));
    saved.Read(Text(60, 3));
    if (name == "expected") {  // by 80 queries, not 380
      EXPECT_NE(ContentsOf(loaded)[0].at(310), kUnjudged);
    } else {
      ExpectNear(ContentsOf(loaded), ContentsOf(saved), 1e-5, name);
    }
  }
}

TEST(WholeLayers, ACancelledChunkLeavesNoQueries) {
  for (const std::string& name : Names()) {
    const Plan plan = KeepPlan(name, "judged");
    Session session(SmallModel(), plan, Options(100));
    session.Read(Text(100));
    bool cancels = true;
    session.impl().SetHiddenTap([&](int layer, int32_t, int, const float*) {
      if (layer == 2 && std::exchange(cancels, false)) session.Cancel();
    });
    ExpectError(ErrorCode::kCancelled, "after 100 tokens", [&] { session.Read(Text(90, 7)); });
    EXPECT_FALSE(cancels);
    session.Read(Text(90, 2));
    Session wanted(SmallModel(), plan, Options(100));
    wanted.Read(Text(100));
    wanted.Read(Text(90, 2));
    ExpectNear(ContentsOf(session), ContentsOf(wanted), 0, name);
  }
}

TEST(WholeLayers, ADroppedTailIsNotAskedFor) {
  for (const std::string name : {"snapkv", "tova", "keydiff", "expected_calibrated", "qfilter+"}) {
    Session session(SmallModel(), KeepPlan(name, "judged"), Options());
    session.Read(Text(200));
    session.Read(Text(30, 4));
    session.DropTail(200);
    Session wanted(SmallModel(), KeepPlan(name, "judged"), Options());
    wanted.Read(Text(200));
    for (const size_t n : {30, 100}) {  // as many as were dropped, and more
      session.Read(Text(n, 5));
      wanted.Read(Text(n, 5));
      ExpectNear(ContentsOf(session), ContentsOf(wanted), 1e-5, name);
    }
  }
  Session session(SmallModel(), KeepPlan("expected", "judged"), Options());
  session.Read(Text(200, 6));
  session.DropTail(0);
  session.Read(Text(200));
  Session wanted(SmallModel(), KeepPlan("expected", "judged"), Options());
  wanted.Read(Text(200));
  ExpectNear(ContentsOf(session), ContentsOf(wanted), 1e-5, "expected");
}

TEST(WholeLayers, SessionsOfABatchAreJudgedByTheirOwnQueries) {
  Session snapkv(SmallModel(), KeepPlan("snapkv", "judged"), Options());
  Session expected(SmallModel(), KeepPlan("expected", "judged"), Options());
  Session plain(SmallModel(), KeepPlan("knorm", "judged"), Options());
  Queries of_snapkv, of_expected;
  Record(snapkv, of_snapkv);
  Record(expected, of_expected);
  snapkv.Read(Text(150));
  expected.Read(Text(120, 2));
  plain.Read(Text(90, 3));
  Batch batch(SmallModel(), 1);
  Session* sessions[] = {&snapkv, &plain, &expected};
  for (const Token token : Text(40, 4)) {
    const Token tokens[] = {token, token, token};
    batch.Next(sessions, tokens);
  }
  snapkv.impl().SettleNow();
  expected.impl().SettleNow();
  ExpectNear(ContentsOf(snapkv), Judged(snapkv, of_snapkv, 0), 2e-4, "snapkv");
  ExpectNear(ContentsOf(expected), Judged(expected, of_expected, 152), 2e-4, "expected");
}

}  // namespace
}  // namespace pith
