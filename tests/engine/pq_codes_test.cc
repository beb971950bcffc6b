// Sessions whose keys become codes of a product quantiser, by codebooks of a calibration.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "engine/coded_sessions.h"
#include "engine/greedy.h"
#include "engine/session_impl.h"
#include "engine/snapshot_bytes.h"
#include "pith/snapshot.h"
#include "tools/expect_error.h"

namespace pith::testing {
namespace {

Plan PqPlan(const char* keep, const std::string& keys, const std::string& values) {
  static const auto calibration = WithCodebooks({"pq8x16", "pq4x32"}, 1);
  Plan plan = CodesPlan(keep, keys, values);
  plan.calibration = calibration;
  return plan;
}

// Attention over codes is attention over what they stand for; and that is not what they were.
TEST(PqCodes, AttentionIsThatOverDecodedKeys) {
  const auto text = Noise(400);
  const struct {
    const char* keys;
    const char* values;
    double tolerance;  // of tables of 8 bits, which pq8 has with AVX-512; of q4, weights of 7
  } cases[] = {{"pq8x16", "f16", 0.02}, {"pq4x32", "q4", 0.04}, {"lr16", "f16", 0.02}};
  for (const auto& [keys, values, tolerance] : cases) {
    Session coded(SmallModel(), PqPlan("60%", keys, values), OneThread());
    coded.Read(text);
    EXPECT_EQ(coded.stats().tiers[1].key_codec, keys);
    EXPECT_GT(coded.stats().tiers[1].entries, 10 * coded.stats().tiers[0].entries);
    Session exact(SmallModel(), CodesPlan("60%", "f16", "f16"), OneThread());
    exact.Read(text);
    Session decoded = exact.Fork();
    for (const size_t n : {1u, 1u, 40u}) {  // one query, and many
      TakeDecoded(coded, decoded);
      const auto more = Noise(n);
      for (Session* session : {&coded, &decoded, &exact}) session->Read(more);
      const double moved = Apart(Logits(coded), Logits(exact));
      EXPECT_LE(Apart(Logits(coded), Logits(decoded)), tolerance * moved) << keys << " " << n;
      EXPECT_GT(moved, 0.01) << keys;
    }
  }
}

TEST(PqCodes, AnyNumberOfThreadsEncodesTheSame) {
  std::string one;
  for (const int threads : {1, 3}) {
    const auto file = Folder() / "threads.pith";
    Session session(SmallModel(), PqPlan("50%", "pq8x16", "q8"), {.n_batch = 64, .n_threads = 1});
    session.impl().n_threads = threads;
    session.Read(Noise(500));
    Continue(session, 100);
    session.Save(file);
    if (threads == 1) one = ReadWhole(file);
    EXPECT_EQ(ReadWhole(file), one);
  }
}

TEST(PqCodes, ASnapshotGoesOnWithItsCodebooks) {
  const auto file = Folder() / "pq.pith";
  const Plan plan = PqPlan("50%", "pq4x32", "q4");
  Session saved(SmallModel(), plan, OneThread());
  saved.Read(Noise(700));
  Continue(saved, 40);
  ExpectToGoOnFrom(file, saved, plan.calibration);

  const SnapshotInfo info = InspectSnapshot(file);
  ASSERT_EQ(info.tiers.size(), 2u);
  EXPECT_EQ(info.tiers[1].key_codec, "pq4x32");
  EXPECT_EQ(info.tiers[1].codebook_bytes, saved.stats().tiers[1].codebook_bytes);
  EXPECT_EQ(info.calibration_hash.size(), 16u);

  const auto load = [&](std::shared_ptr<const Calibration> calibration) {
    return [&, calibration] { Session::Load(SmallModel(), file, OneThread(), calibration); };
  };
  ExpectError(ErrorCode::kInvalidArgument, "codebooks for pq4x32", load(nullptr));
  ExpectError(ErrorCode::kMismatch, "codebooks for pq4x32", load(WithCodebooks({"pq8x16"}, 1)));
  ExpectError(ErrorCode::kMismatch, "was made with the calibration",
              load(WithCodebooks({"pq8x16", "pq4x32"}, 2)));
}

// Coefficients are coded beside a centre of the calibration's, which is none of the model's frames.
TEST(PqCodes, ASnapshotOfCoefficientsHasNoFrames) {
  const auto file = Folder() / "low-rank.pith";
  const Plan plan = PqPlan("50%", "lr16q4", "q8");
  Session saved(SmallModel(), plan, OneThread());
  saved.Read(Noise(300));
  ExpectToGoOnFrom(file, saved, plan.calibration);
  EXPECT_EQ(PithManifest(ReadWhole(file)).find("key_frames"), std::string::npos);
}

TEST(PqCodes, ForksShareCodebooks) {
  const Plan plan = PqPlan("50%", "pq8x16", "f16");
  Session coded(SmallModel(), plan, OneThread());
  coded.Read(Noise(300));
  Session fork = coded.Fork();
  EXPECT_EQ(fork.impl().cache.codecs()[1].keys, coded.impl().cache.codecs()[1].keys);
  EXPECT_EQ(Continue(fork, 100), Continue(coded, 100));
  Plan other = plan;
  other.calibration = WithCodebooks({"pq8x16"}, 2);
  ExpectError(ErrorCode::kInvalidArgument, "other codebooks", [&] { coded.Fork(other); });

  Session exact(SmallModel(), CodesPlan("50%", "f16", "f16"), OneThread());
  exact.Read(Noise(300));
  Session codes = exact.Fork(plan);
  EXPECT_GT(codes.stats().tiers[1].entries, 0);
}

TEST(PqCodes, WhatCannotBeStoredSoIsRefused) {
  const auto make = [](const Plan& plan) { return [plan] { Session(SmallModel(), plan); }; };
  const auto refused = [&](const std::string& keys, const std::string& values, const char* word) {
    ExpectError(ErrorCode::kInvalidArgument, word, make(PqPlan("50%", keys, values)));
  };
  refused("pq8x5", "f16", "32 dimensions have none");
  refused("pq8x8", "f16",
          "those given are for pq4x32, pq8x16; make them with pith calibrate "
          "--codebooks pq8x8");
  refused("pq8x0", "f16", "key codec 'pq8x0' is not known");
  refused("f16", "pq8x16", "value codec 'pq8x16' is not known; pith has f16, q8 and q4");
  refused("lr12", "f16",
          "lr12 keeps 12 directions of a head, expected a multiple of 8 up to its 32");
  refused("lr40", "f16", "up to its 32 dimensions");
  refused("lr16q8", "f16", "key codec 'lr16q8' is not known");
  ExpectError(ErrorCode::kInvalidArgument, "need directions, but none are given",
              make(CodesPlan("50%", "lr16", "f16")));
  ExpectError(ErrorCode::kInvalidArgument, "need codebooks for it, but none are given",
              make(CodesPlan("50%", "pq8x16", "f16")));
  Plan foreign = PqPlan("50%", "pq8x16", "f16");
  auto calibration = std::make_shared<Calibration>(*foreign.calibration);
  calibration->metadata["model_fingerprint"] = "0123456789abcdef";
  foreign.calibration = calibration;
  ExpectError(ErrorCode::kMismatch, "of another model", make(foreign));
}

}  // namespace
}  // namespace pith::testing
