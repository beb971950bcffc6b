#include "engine/synthetic_read.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/session_impl.h"
#include "tools/expect_error.h"
#include "tools/random_gguf.h"
#include "tools/random_kvzap.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::ExpectError;

class SyntheticRead : public ::testing::Test {
 protected:
  SyntheticRead() {
    testing::RandomGguf gguf;
    gguf.n_ctx = 4096;
    testing::WriteRandomGguf(gguf, folder_ / "x.gguf");
    model_.emplace(Model::Load(folder_ / "x.gguf"));
    calibration_ = std::make_shared<const Calibration>(
        testing::MakeRandomKvzap(folder_ / "x.gguf", {.mlp = false, .seed = 1}));
  }

  Session Make(const std::string& keep) const {
    Plan plan;
    plan.scorer = "kvzap";
    plan.keep = Keep::Parse(keep);
    plan.calibration = calibration_;
    SessionOptions options;
    options.n_batch = 100;
    options.n_threads = 1;
    return Session(*model_, plan, options);
  }

  const testing::TempFolder folder_;
  std::optional<Model> model_;
  std::shared_ptr<const Calibration> calibration_;
};

TEST_F(SyntheticRead, LeavesASessionThatReadsOn) {
  Session session = Make("25%");
  ReadSynthetic(session, 3050, 7);
  EXPECT_EQ(session.n_read(), 3050);
  EXPECT_TRUE(session.logits().empty());
  const CacheStats stats = session.stats();
  EXPECT_EQ(stats.entries_full, 4 * 3050);
  // Never the whole: what goes goes chunk by chunk.
  EXPECT_LT(stats.kv_bytes_peak, stats.kv_bytes_full / 2);
  const auto [fewest, most] = std::minmax_element(
      stats.heads.begin(), stats.heads.end(),
      [](const HeadStats& a, const HeadStats& b) { return a.entries < b.entries; });
  EXPECT_GT(most->entries, fewest->entries + 50);
  EXPECT_TRUE(stats.entries > 0.2 * 4 * 3050 && stats.entries < 0.3 * 4 * 3050) << stats.entries;
  session.Read(std::vector<Token>(50, 65));
  EXPECT_EQ(session.logits().size(), 259u);
  EXPECT_EQ(session.n_read(), 3100);
}

TEST_F(SyntheticRead, TheSeedDecides) {
  const auto first_key = [&](uint64_t seed) {
    Session session = Make("100%");
    ReadSynthetic(session, 500, seed);
    std::vector<float> key(16), value(16);
    session.impl().cache.Read(1, 1, 499, key.data(), value.data());
    return key;
  };
  EXPECT_EQ(first_key(1), first_key(1));
  EXPECT_NE(first_key(1), first_key(2));
}

TEST_F(SyntheticRead, WorthsAreThoseOfTheSurrogate) {
  Session session = Make("tau=-1000");
  ReadSynthetic(session, 4096, 3);
  const std::vector<float>& quantiles = calibration_->kvzap->quantiles;
  for (int layer = 0; layer < 2; ++layer) {
    for (int head = 0; head < 2; ++head) {
      for (const float worth : session.impl().cache.Entries(layer, head).worth) {
        ASSERT_TRUE(worth >= quantiles.front() && worth <= quantiles.back()) << worth;
      }
    }
  }
}

TEST_F(SyntheticRead, RefusesMoreThanTheContext) {
  Session session = Make("25%");
  ExpectError(ErrorCode::kInvalidArgument, "context of 4096",
              [&] { ReadSynthetic(session, 4097, 1); });
  EXPECT_EQ(session.n_read(), 0);
}

}  // namespace
}  // namespace pith
