// Sessions saved and loaded: the same answers, no copies, and no damage goes unnoticed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "engine/default_model.h"
#include "engine/greedy.h"
#include "engine/session_impl.h"
#include "engine/snapshot_bytes.h"
#include "engine/snapshot_file.h"
#include "pith/calibration.h"
#include "pith/error.h"
#include "pith/session.h"
#include "pith/snapshot.h"
#include "tools/random_gguf.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::Continue;
using testing::Logits;
using testing::OneThread;
using testing::ReadWhole;
using testing::TempFolder;
using testing::WriteWhole;

const TempFolder& Folder() {
  static const TempFolder folder;
  return folder;
}

// Small, so that what does not depend on the model is quick.
Model SmallModel(uint64_t seed = 1) {
  testing::RandomGguf options;
  options.n_embd = 128;
  options.head_dim = 32;
  options.n_ctx = 1024;
  options.seed = seed;
  const auto file = Folder() / ("model-" + std::to_string(seed) + ".gguf");
  if (!std::filesystem::exists(file)) testing::WriteRandomGguf(options, file);
  return Model::Load(file);
}

std::shared_ptr<const Calibration> DefaultCalibration() {
  return std::make_shared<Calibration>(Calibration::Load(PITH_DEFAULT_CALIBRATION));
}

Plan KeepPlan(std::string_view keep, const std::string& scorer = "knorm") {
  Plan plan;
  plan.keep = Keep::Parse(keep);
  plan.scorer = scorer;
  plan.window = 16;
  return plan;
}

std::vector<Token> Noise(size_t n, int seed = 0) {
  std::vector<Token> tokens;
  for (size_t i = 0; i < n; ++i) tokens.push_back(static_cast<Token>((i * 79 + seed * 31) % 250));
  return tokens;
}

void ExpectError(ErrorCode code, const std::vector<std::string>& words,
                 const std::function<void()>& action) {
  try {
    action();
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    for (const std::string& word : words) {
      EXPECT_NE(std::string(e.what()).find(word), std::string::npos) << e.what();
    }
  }
}

TEST(Snapshot, ALoadedSessionGoesOnAsTheSavedOneBitForBit) {
  const auto text = EssayTokens("worked", 300);
  const auto question = EssayTokens("nft", 20);
  for (const std::string scorer : {"knorm", "qfilter"}) {
    const auto file = Folder() / (scorer + ".pith");
    Plan plan = KeepPlan("25%", scorer);
    plan.calibration = DefaultCalibration();
    Session saved(DefaultModel(), plan, OneThread());
    saved.Read(text);
    Continue(saved, 3);
    saved.Save(file, {{"document", "worked"}});
    Session loaded = Session::Load(DefaultModel(), file, OneThread(), DefaultCalibration());
    EXPECT_EQ(loaded.n_read(), 303);
    EXPECT_TRUE(std::ranges::equal(loaded.tokens(), saved.tokens()));
    EXPECT_EQ(Logits(loaded), Logits(saved));
    EXPECT_EQ(loaded.stats().entries, saved.stats().entries);
    EXPECT_EQ(loaded.plan().keep.ToString(), "25%");
    EXPECT_EQ(loaded.plan().scorer, scorer);
    EXPECT_EQ(Continue(loaded, 12), Continue(saved, 12));
    EXPECT_EQ(Logits(loaded), Logits(saved));
    loaded.Read(question);
    saved.Read(question);
    EXPECT_EQ(Continue(loaded, 12), Continue(saved, 12));
    EXPECT_EQ(Logits(loaded), Logits(saved));
  }
}

TEST(Snapshot, GoesOnForEveryKindOfPlan) {
  const Model model = SmallModel();
  const auto file = Folder() / "kinds.pith";
  for (const char* keep : {"100%", "30%", "40", "128KiB", "tau=-3"}) {
    for (const char* scorer : {"knorm", "random", "streaming_llm", "kvzip"}) {
      Plan plan = KeepPlan(keep, scorer);
      if (std::string(keep) == "100%") plan.keep = {};
      plan.skip_layers = 1;
      plan.seed = 0xfedcba9876543210;
      plan.head_floor = 0.1;
      plan.kv_limit = 1 << 30;
      Session saved(model, plan, OneThread());
      saved.Read(Noise(200));
      Continue(saved, 7);
      saved.Save(file);
      Session loaded = Session::Load(model, file, OneThread());
      EXPECT_EQ(loaded.plan().keep.kind, plan.keep.kind);
      EXPECT_EQ(loaded.plan().keep.ToString(), plan.keep.ToString());
      EXPECT_EQ(loaded.plan().seed, plan.seed);
      EXPECT_EQ(loaded.plan().head_floor, plan.head_floor);
      EXPECT_EQ(loaded.plan().kv_limit, plan.kv_limit);
      EXPECT_EQ(Continue(loaded, 50), Continue(saved, 50));
      loaded.Read(Noise(60, 1));
      saved.Read(Noise(60, 1));
      EXPECT_EQ(Logits(loaded), Logits(saved)) << keep << " " << scorer;
      EXPECT_EQ(loaded.stats().entries, saved.stats().entries) << keep << " " << scorer;
    }
  }
}

TEST(Snapshot, TheSameSessionGivesTheSameBytesAndASavedLoadedOneToo) {
  const Model model = SmallModel();
  const auto a = Folder() / "a.pith", b = Folder() / "b.pith";
  Session session(model, KeepPlan("30%"), OneThread());
  session.Read(Noise(300));
  session.Save(a, {{"k", "v"}});
  const std::string bytes = ReadWhole(a);
  session.Save(b, {{"k", "v"}});
  EXPECT_EQ(ReadWhole(b), bytes);
  // A fork has old bytes in other places of its last pages.
  Session fork = session.Fork();
  Continue(fork, 3);
  fork.DropTail(300);
  Session again = Session::Load(model, a, OneThread());
  again.Save(b, {{"k", "v"}});
  EXPECT_EQ(ReadWhole(b), bytes);
  again.Save(a, {{"k", "v"}});  // in the place of the file that it has mapped
  EXPECT_EQ(ReadWhole(a), bytes);
  EXPECT_EQ(Continue(again, 5), Continue(session, 5));
}

TEST(Snapshot, AnEmptySessionAndOneWithoutLogitsCanBeSaved) {
  const Model model = SmallModel();
  const auto file = Folder() / "empty.pith";
  Session(model, KeepPlan("50%"), OneThread()).Save(file);
  Session empty = Session::Load(model, file, OneThread());
  EXPECT_EQ(empty.n_read(), 0);
  EXPECT_TRUE(empty.logits().empty());
  empty.Read(Noise(100));
  empty.DropTail(90);
  empty.Save(file);
  Session dropped = Session::Load(model, file, OneThread());
  EXPECT_EQ(dropped.n_read(), 90);
  EXPECT_TRUE(dropped.logits().empty());
  dropped.Read(Noise(10, 2));
  empty.Read(Noise(10, 2));
  EXPECT_EQ(Logits(dropped), Logits(empty));
}

TEST(Snapshot, PagesAreMappedAndSharedByAllWhoLoadThem) {
  const Model model = SmallModel();
  const auto file = Folder() / "shared.pith";
  Session saved(model, {}, OneThread());
  saved.Read(Noise(500));
  saved.Save(file);
  std::vector<Session> sessions;
  for (int i = 0; i < 3; ++i) sessions.push_back(Session::Load(model, file, OneThread()));
  std::filesystem::remove(file);  // mapped files stay readable
  for (Session& session : sessions) {
    const CacheStats stats = session.stats();
    EXPECT_EQ(stats.kv_bytes_shared, uint64_t{8} * 2 * 2 * 64 * 32 * 4);  // ceil(500 / 64) pages
    EXPECT_LE(stats.kv_bytes - stats.kv_bytes_shared, stats.kv_bytes_shared / 10);
  }
  sessions[0].Read(Noise(30, 5));
  const auto wanted = Continue(saved, 20);
  EXPECT_EQ(Continue(sessions[1], 20), wanted);
  sessions.erase(sessions.begin());
  Session fork = sessions[1].Fork();
  sessions.clear();
  EXPECT_EQ(Continue(fork, 20), wanted);
}

TEST(Snapshot, InspectSaysWhatWasSaved) {
  const Model model = SmallModel();
  const auto file = Folder() / "inspect.pith";
  Session session(model, KeepPlan("40%"), OneThread());
  session.Read(Noise(300));
  session.Save(file,
               {{"document", "a \xe2\x82\xac"}, {"broken", "\xff"}, {std::string(1, '\0'), ""}});
  const SnapshotInfo info = InspectSnapshot(file);
  EXPECT_EQ(info.version, 1);
  EXPECT_EQ(info.model_name, model.info().name);
  EXPECT_EQ(info.model_fingerprint, model.info().fingerprint);
  EXPECT_TRUE(info.calibration_hash.empty());
  EXPECT_EQ(info.plan.keep.ToString(), "40%");
  EXPECT_EQ(info.n_layers, 2);
  EXPECT_EQ(info.n_kv_heads, 2);
  EXPECT_EQ(info.head_dim, 32);
  EXPECT_EQ(info.tokens, Noise(300));
  EXPECT_EQ(info.notes.at("document"), "a \xe2\x82\xac");
  EXPECT_EQ(info.notes.at("broken"), "\xef\xbf\xbd");
  EXPECT_EQ(info.notes.count(std::string(1, '\0')), 1u);
  EXPECT_EQ(info.file_bytes, std::filesystem::file_size(file));
  EXPECT_EQ(info.heads.size(), 4u);
  int64_t entries = 0;
  for (const HeadStats& head : info.heads) entries += head.entries;
  EXPECT_EQ(entries, session.stats().entries);
  ASSERT_EQ(info.sections.size(), 5u);
  EXPECT_EQ(info.sections[4].name, "pages");
  EXPECT_TRUE(info.intact);

  std::string bytes = ReadWhole(file);
  bytes[info.sections[2].offset + 5] ^= 1;
  WriteWhole(file, bytes);
  const SnapshotInfo damaged = InspectSnapshot(file);
  EXPECT_FALSE(damaged.intact);
  EXPECT_FALSE(damaged.sections[2].intact);
  EXPECT_TRUE(damaged.sections[3].intact);
  ExpectError(ErrorCode::kFormat, {file.string(), "section \"worth\" is damaged", "checksum"},
              [&] { Session::Load(model, file); });
  WriteWhole(file, bytes.substr(0, bytes.size() - 1));
  const SnapshotInfo cut = InspectSnapshot(file);
  EXPECT_FALSE(cut.sections[4].intact);
  EXPECT_TRUE(cut.sections[3].intact);
  ExpectError(ErrorCode::kNotFound, {}, [&] { InspectSnapshot(Folder() / "none.pith"); });
}

TEST(Snapshot, OtherModelsCalibrationsAndVersionsAreRefusedWithTheReason) {
  const Model model = SmallModel(), other = SmallModel(2);
  const auto file = Folder() / "model.pith";
  Session session(model, KeepPlan("40%"), OneThread());
  session.Read(Noise(100));
  session.Save(file);
  ExpectError(ErrorCode::kMismatch, {model.info().fingerprint, other.info().fingerprint},
              [&] { Session::Load(other, file); });

  Plan plan = KeepPlan("40%", "qfilter");
  auto calibration = std::make_shared<Calibration>();
  calibration->n_layers = calibration->n_kv_heads = 2;
  calibration->head_dim = 32;
  calibration->q_filters.assign(128, 0.5f);
  plan.calibration = calibration;
  Session judged(model, plan, OneThread());
  judged.Read(Noise(100));
  judged.Save(file);
  Session::Load(model, file, OneThread(), std::make_shared<Calibration>(*calibration));
  ExpectError(ErrorCode::kInvalidArgument, {"Q-Filters", "none was given"},
              [&] { Session::Load(model, file); });
  auto foreign = std::make_shared<Calibration>(*calibration);
  foreign->q_filters[77] = 0.25f;
  ExpectError(ErrorCode::kMismatch, {"calibration", InspectSnapshot(file).calibration_hash},
              [&] { Session::Load(model, file, OneThread(), foreign); });
  ExpectError(ErrorCode::kInvalidArgument, {"100", "64"},
              [&] { Session::Load(model, file, {.n_threads = 1, .n_ctx = 64}, calibration); });

  std::string bytes = ReadWhole(file);
  bytes[8] = 2;
  testing::SealHeader(bytes);
  WriteWhole(file, bytes);
  ExpectError(ErrorCode::kMismatch, {"version 2", "version 1"},
              [&] { Session::Load(model, file); });
  ExpectError(ErrorCode::kMismatch, {"version 2", "version 1"}, [&] { InspectSnapshot(file); });
  ExpectError(ErrorCode::kNotFound, {}, [&] { Session::Load(model, Folder() / "none.pith"); });
  ExpectError(ErrorCode::kFormat, {"not a snapshot"},
              [&] { Session::Load(model, PITH_TEST_MODEL); });
}

// What Load does before anything is made from the file.
std::string Check(const std::string& bytes) {
  // At a multiple of 64, as a mapped file is.
  std::vector<std::byte> storage(bytes.size() + 64);
  void* place = storage.data();
  size_t room = storage.size();
  std::align(64, bytes.size(), place, room);
  std::memcpy(place, bytes.data(), bytes.size());
  try {
    SnapshotFile::Parse({static_cast<const std::byte*>(place), bytes.size()}, "x.pith").Verify();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kFormat) << e.what();
    return e.what();
  }
  return "";
}

TEST(Snapshot, EveryFlippedOrCutByteIsFoundAndNamed) {
  testing::RandomGguf options;  // the smallest pages there are
  options.n_embd = 16;
  options.n_heads = 2;
  options.n_kv_heads = 1;
  WriteRandomGguf(options, Folder() / "tiny.gguf");
  const Model model = Model::Load(Folder() / "tiny.gguf");
  const auto file = Folder() / "tiny.pith";
  Session session(model, KeepPlan("50%"), OneThread());
  session.Read(Noise(150));
  session.Save(file, {{"document", "x"}});
  const std::string bytes = ReadWhole(file);
  ASSERT_EQ(Check(bytes), "");
  const auto sections = InspectSnapshot(file).sections;
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string flipped = bytes;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i * 5 % 8)));
    const std::string message = Check(flipped);
    ASSERT_FALSE(message.empty()) << "byte " << i;
    std::string part = i < 8 ? "not a snapshot" : i < 4096 ? "header" : "manifest";
    for (const SnapshotSection& section : sections) {
      if (i >= section.offset) part = "section \"" + section.name + "\" is damaged";
    }
    ASSERT_NE(message.find(part), std::string::npos) << i << ": " << message;
  }
  for (size_t n = 0; n < bytes.size(); n = n < 4096 + 64 ? n + 1 : n + 17) {
    const std::string message = Check(bytes.substr(0, n));
    ASSERT_NE(message.find(n < 8 ? "not a snapshot" : "cut"), std::string::npos) << message;
  }
  EXPECT_NE(Check(bytes + '\0').find("1 bytes follow"), std::string::npos);
}

// Files whose checksums are right and whose content is not.
TEST(Snapshot, HostileManifestsAndValuesAreRefused) {
  const Model model = SmallModel();
  const auto file = Folder() / "hostile.pith";
  Session session(model, KeepPlan("50%"), OneThread());
  session.Read(Noise(100));
  session.Save(file);
  const std::string bytes = ReadWhole(file);
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string changed = testing::ReplaceInManifest(bytes, from, to);
    EXPECT_NE(changed, bytes) << from;
    return Check(changed);
  };
  const std::vector<std::pair<std::string, std::string>> changes = {
      {R"("n_read":100)", R"("n_read":2147483647)"},
      {R"("n_read":100)", R"("n_read":99999999999999)"},
      {R"("n_read":100)", R"("n_read":-1)"},
      {R"("n_read":100)", R"("n_read":"x")"},
      {R"("n_read":100)", R"("n_reed":100)"},
      {R"("n_judged":0)", R"("n_judged":101)"},
      {R"("head_dim":32)", R"("head_dim":0)"},
      {R"("head_dim":32)", R"("head_dim":256)"},
      {R"("head_dim":32)", R"("head_dim":100000)"},
      {R"("n_layers":2)", R"("n_layers":1048576)"},
      {R"("entries":[50)", R"("entries":[51)"},
      {R"("entries":[50)", R"("entries":[101)"},
      {R"("entries":[50)", R"("entries":[1e3)"},
      {R"("entries":[50)", R"("entries":[50,50)"},
      {R"("kind":"fraction")", R"("kind":"bytes")"},
      {R"("kind":"fraction")", R"("kind":"some")"},
      {R"("fraction":0.5)", R"("fraction":1.5)"},
      {R"("window":16)", R"("window":0)"},
      {R"("scorer":"knorm")", R"("scorer":"abc")"},
      {R"("scorer":"knorm")", R"("scorer":"qfilter")"},
      {R"("budget":"auto")", R"("budget":"abc")"},
      {R"("key_codec":"f16")", R"("key_codec":"q9")"},
      {R"("notes":{})", R"("notes":[])"},
      {R"("notes":{})", R"("notes":{"a":1})"},
      {R"("name":"pages")", R"("name":"pagex")"},
      {R"("model":{)", R"("model":[{)"},
  };
  for (const auto& [from, to] : changes) {
    const std::string message = replaced(from, to);
    EXPECT_NE(message.find("x.pith: "), std::string::npos) << from << " " << to << message;
  }
  const auto section = [&](SnapshotPart part) {
    return InspectSnapshot(file).sections[static_cast<size_t>(part)].offset;
  };
  const auto with_value = [&](SnapshotPart part, size_t index, auto value) {
    std::string changed = bytes;
    std::memcpy(changed.data() + section(part) + index * 4, &value, 4);
    testing::SealSections(changed);
    return Check(changed);
  };
  EXPECT_NE(with_value(SnapshotPart::kPositions, 3, int32_t{100}).find("positions"),
            std::string::npos);
  EXPECT_NE(with_value(SnapshotPart::kPositions, 3, int32_t{-1}).find("positions"),
            std::string::npos);
  EXPECT_NE(with_value(SnapshotPart::kPositions, 3, int32_t{99}).find("twice"), std::string::npos);
  EXPECT_NE(
      with_value(SnapshotPart::kWorth, 3, std::numeric_limits<float>::quiet_NaN()).find("worth"),
      std::string::npos);
  EXPECT_EQ(with_value(SnapshotPart::kWorth, 3, std::numeric_limits<float>::infinity()), "");
  EXPECT_NE(with_value(SnapshotPart::kTokens, 3, int32_t{-5}).find("tokens"), std::string::npos);
  std::string changed = bytes;
  const int32_t outside = model.info().n_vocab;
  std::memcpy(changed.data() + section(SnapshotPart::kTokens), &outside, 4);
  testing::SealSections(changed);
  WriteWhole(file, changed);
  ExpectError(ErrorCode::kFormat, {"tokens", "vocabulary"}, [&] { Session::Load(model, file); });
}

TEST(Snapshot, AQuarterOfTheEntriesIsAQuarterOfTheBytes) {
  std::vector<Token> tokens;
  for (size_t i = 0; i < 4096; ++i) tokens.push_back(static_cast<Token>(100 + i * 7919 % 40000));
  Plan plan = KeepPlan("25%");
  plan.window = 128;
  // Filled without the model, which would take its time.
  Session session(DefaultModel(), plan, OneThread());
  Session::Impl& impl = session.impl();
  const ModelInfo& info = DefaultModel().info();
  const std::vector<float> rows(size_t{4096} * info.head_dim, 0.5f);
  const size_t dim = static_cast<size_t>(info.head_dim);
  std::vector<float> worth(4096);
  impl.cache.BeginChunk(4096, 0);
  for (int layer = 0; layer < info.n_layers; ++layer) {
    for (int h = 0; h < info.n_kv_heads; ++h) {
      for (int i = 0; i < 4096; ++i) {
        worth[i] = static_cast<float>((i * 7919 + layer * 31 + h) % 4096) * (h + 1);
      }
      impl.cache.Write(layer, h, 0, {rows.data(), 4096, dim, dim}, {rows.data(), 4096, dim, dim},
                       worth);
    }
  }
  impl.cache.EndChunk();
  impl.n_read = 4096;
  impl.tokens = tokens;
  impl.logits.assign(static_cast<size_t>(info.n_vocab), 0.0f);
  impl.SettleNow();
  for (const char* budget : {"uniform", "global"}) {
    plan.budget = budget;
    Session fork = session.Fork(plan);
    fork.Save(Folder() / "quarter.pith");
    const double full = 4096.0 * 90 * 256;
    EXPECT_LE(static_cast<double>(std::filesystem::file_size(Folder() / "quarter.pith")) / full,
              0.27)
        << budget;
    Session loaded = Session::Load(DefaultModel(), Folder() / "quarter.pith", OneThread());
    EXPECT_LE(static_cast<double>(loaded.stats().kv_bytes) / full, 0.27) << budget;
  }
}

}  // namespace
}  // namespace pith
