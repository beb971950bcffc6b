// Sessions of a model whose keys have a large bias, as Qwen2's have.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/coded_sessions.h"
#include "engine/greedy.h"
#include "engine/snapshot_bytes.h"
#include "pith/snapshot.h"
#include "tools/expect_error.h"

namespace pith::testing {
namespace {

const Model& BiasedModel() {
  static const Model model = [] {
    RandomGguf options;
    options.architecture = "qwen2";
    options.n_embd = 128;
    options.head_dim = 32;
    options.n_ctx = 2048;
    options.rope_freq_base = 1e30f;  // most pairs hardly turn, and Qwen2 has its bias in those
    options.key_bias = 15;
    const auto file = Folder() / "biased.gguf";
    WriteRandomGguf(options, file);
    return Model::Load(file);
  }();
  return model;
}

// Logits after a text, by the kernels of many queries, and after a token more, by those of few.
std::vector<std::vector<float>> LogitsOf(Session& session) {
  session.Read(Noise(600));
  std::vector<std::vector<float>> logits = {Logits(session)};
  session.Next(7);
  logits.push_back(Logits(session));
  return logits;
}

TEST(KeyFrames, AnswersWithCodesAreNearThoseOfF16) {
  Session f16(BiasedModel(), CodesPlan("100%", "f16", "f16"), OneThread());
  const auto exact = LogitsOf(f16);
  for (const char* codec : {"q8", "q4"}) {
    const Plan plan = CodesPlan("100%", codec, "f16");
    Session framed(BiasedModel(), plan, OneThread());
    Session plain(BiasedModel(), plan, OneThread());
    Cache& cache = plain.impl().cache;
    cache = Cache(cache.shape(), MakeTiers(plan.StoredTiers(), cache.shape().head_dim), 0);
    const auto with = LogitsOf(framed), without = LogitsOf(plain);
    EXPECT_EQ(framed.stats().kv_bytes, plain.stats().kv_bytes);
    for (size_t i = 0; i < exact.size(); ++i) {
      const double near = Apart(with[i], exact[i]), far = Apart(without[i], exact[i]);
      std::printf("%s: logits %.5f apart, without frames %.5f\n", codec, near, far);
      EXPECT_GT(near, 0) << codec;
      EXPECT_LT(near, far / (codec[1] == '8' ? 2 : 4)) << codec;
    }
  }
}

TEST(KeyFrames, ASnapshotSaysThatItsKeysAreInThem) {
  const auto file = Folder() / "framed.pith";
  Session saved(BiasedModel(), CodesPlan("50%", "q4", "q8"), OneThread());
  saved.Read(Noise(500));
  saved.Save(file);
  Session loaded = Session::Load(BiasedModel(), file, OneThread());
  EXPECT_EQ(Continue(loaded, 40), Continue(saved, 40));
  EXPECT_EQ(Logits(loaded), Logits(saved));

  const std::string bytes = ReadWhole(file);
  const auto replace = [&](const std::string& from, const std::string& to) {
    const std::string changed = ReplaceInManifest(bytes, from, to);
    ASSERT_NE(changed, bytes) << from;
    WriteWhole(file, changed);
  };
  const auto load = [&] { Session::Load(BiasedModel(), file); };
  replace(R"("key_frames":1)", R"("key_frames":2)");
  ExpectError(ErrorCode::kMismatch, "frames 2", load);
  replace(R"("key_frames":1,)", "");
  ExpectError(ErrorCode::kMismatch, "frames 0", load);
  replace(R"("key_frames":1)", R"("key_frames":-1)");
  ExpectError(ErrorCode::kFormat, "\"key_frames\"", load);
}

TEST(KeyFrames, AModelWithoutABiasHasNone) {
  const auto file = Folder() / "plain.pith";
  Session saved(SmallModel(), CodesPlan("50%", "q4", "q4"), OneThread());
  saved.Read(Noise(300));
  saved.Save(file);
  EXPECT_EQ(PithManifest(ReadWhole(file)).find("key_frames"), std::string::npos);
  Session exact(BiasedModel(), CodesPlan("50%", "f16", "q8"), OneThread());
  exact.Read(Noise(300));
  exact.Save(file);
  EXPECT_EQ(PithManifest(ReadWhole(file)).find("key_frames"), std::string::npos);
  EXPECT_NO_THROW(Session::Load(BiasedModel(), file));
}

}  // namespace
}  // namespace pith::testing
