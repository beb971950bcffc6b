#include "tools/random_kvzap.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/session_impl.h"
#include "tools/expect_error.h"
#include "tools/random_gguf.h"
#include "tools/temp_folder.h"

namespace pith::testing {
namespace {

std::filesystem::path WriteModel(const TempFolder& folder) {
  RandomGguf gguf;
  gguf.n_layers = 3;
  gguf.n_embd = 256;
  gguf.n_heads = 8;
  gguf.n_kv_heads = 4;
  WriteRandomGguf(gguf, folder / "x.gguf");
  return folder / "x.gguf";
}

TEST(RandomKvzap, ScoresAreNearStandardNormal) {
  const TempFolder folder;
  const Model model = Model::Load(WriteModel(folder));
  std::vector<Token> text;
  for (int i = 0; i < 400; ++i) text.push_back((i * i + 7 * i) % 251);
  for (const bool mlp : {false, true}) {
    MakeRandomKvzap(folder / "x.gguf", {.mlp = mlp, .seed = 3}).Save(folder / "x.pithcal");
    Plan plan;
    plan.scorer = "kvzap";
    plan.keep = Keep::Parse("tau=-1000");
    plan.calibration = std::make_shared<const Calibration>(Calibration::Load(folder / "x.pithcal"));
    EXPECT_EQ(plan.calibration->kvzap->n_hidden, mlp ? 32 : 0);
    Session session(model, plan);
    session.Read(text);
    double sum = 0, squares = 0;
    int n = 0;
    const std::vector<float>& quantiles = plan.calibration->kvzap->quantiles;
    int above = 0;  // the threshold that a quarter should pass
    for (int layer = 0; layer < 3; ++layer) {
      for (int head = 0; head < 4; ++head) {
        for (const float worth : session.impl().cache.Entries(layer, head).worth) {
          sum += worth;
          squares += static_cast<double>(worth) * worth;
          above += worth >= quantiles[quantiles.size() * 3 / 4];
          ++n;
        }
      }
    }
    ASSERT_EQ(n, 3 * 4 * 400);
    // Twelve heads, whose means scatter because tokens have something in common.
    EXPECT_TRUE(std::abs(sum / n) <= 0.5) << sum / n;
    EXPECT_TRUE(squares / n >= 0.5 && squares / n <= 2) << squares / n;
    EXPECT_TRUE(above >= 0.1 * n && above <= 0.45 * n) << above;
  }
}

TEST(RandomKvzap, TheSeedDecides) {
  const TempFolder folder;
  const auto file = WriteModel(folder);
  const auto weight = [&](uint64_t seed) {
    return MakeRandomKvzap(file, {.mlp = false, .seed = seed}).kvzap->layers[1].weight;
  };
  EXPECT_EQ(weight(1), weight(1));
  EXPECT_NE(weight(1), weight(2));
}

TEST(RandomKvzap, RefusesWhatIsNoModel) {
  const TempFolder folder;
  ExpectError(ErrorCode::kNotFound, {"none.gguf"},
              [&] { MakeRandomKvzap(folder / "none.gguf", {}); });
}

}  // namespace
}  // namespace pith::testing
