#include "eval/kld_base.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "eval/log_probs.h"
#include "eval/small_model.h"
#include "pith/error.h"
#include "tools/expect_error.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::AsBytes;
using testing::ExpectError;
using testing::TempFolder;

constexpr int kNext = 3;

ModelInfo SmallInfo() {
  ModelInfo info;
  info.fingerprint = "0123456789abcdef";
  info.n_vocab = 50;
  return info;
}

TextPiece Piece(int first) {
  TextPiece piece;
  for (int i = 0; i < 9; ++i) piece.tokens.push_back(first + i);
  return piece;
}

FullPredictions Predictions(double scale) {
  FullPredictions full;
  full.outcome.nll = {1.0 / 3, 2, 0.5 * scale};
  full.outcome.divergence = {0, 0, 0};
  full.outcome.same_top = {1, 1, 1};
  full.outcome.tokens = 5;
  full.outcome.entries_per_head = {{5, 5}};
  full.outcome.date = "2026-11-23T05:00:00Z";
  full.log_probs = [scale](size_t row, std::span<double> log_probs) {
    std::vector<float> logits;
    for (size_t i = 0; i < log_probs.size(); ++i) {
      logits.push_back(static_cast<float>(scale * std::sin(static_cast<double>(i * i + row))));
    }
    LogSoftmax(logits, log_probs);
  };
  return full;
}

class KldBaseTest : public ::testing::Test {
 protected:
  void SetUp() override {
    KldBaseWriter writer(file_, SmallInfo(), kNext, 2);
    writer.Add(5, 0, Piece(0), Predictions(1));
    writer.Add(5, 7, Piece(20), Predictions(20));
    writer.Commit();
    bytes_ = testing::ReadWhole(file_);
  }

  TempFolder folder_;
  std::filesystem::path file_ = folder_ / "a.base";
  std::string bytes_;
};

TEST_F(KldBaseTest, PredictionsComeBack) {
  const KldBase base = KldBase::Open(file_, SmallInfo());
  for (const auto& [trial, first, scale] : {std::tuple(0, 0, 1.0), std::tuple(7, 20, 20.0)}) {
    const FullPredictions want = Predictions(scale);
    const FullPredictions found = base.Find(5, trial, Piece(first), kNext);
    EXPECT_EQ(found.outcome.nll, want.outcome.nll);
    EXPECT_EQ(found.outcome.entries_per_head, want.outcome.entries_per_head);
    EXPECT_EQ(found.outcome.date, want.outcome.date);
    std::vector<double> exact(50), rounded(50);
    for (size_t row = 0; row < kNext; ++row) {
      want.log_probs(row, exact);
      found.log_probs(row, rounded);
      const double top = *std::max_element(exact.begin(), exact.end());
      for (size_t i = 0; i < 50; ++i) {
        // A step of the squares is 2 sqrt(depth range) / 65535.
        const double depth = std::sqrt((top - exact[i]) * 2 * scale);
        EXPECT_NEAR(rounded[i], exact[i], 2 * (depth + 1e-3) / 65535 + 1e-5) << row << " " << i;
      }
      EXPECT_LT(Divergence(exact, rounded), 1e-6);
    }
  }
  EXPECT_EQ(base.All().size(), 2u);
}

TEST_F(KldBaseTest, ImpossibleTokensAndEvenOnesAreStored) {
  FullPredictions full = Predictions(1);
  full.log_probs = [](size_t row, std::span<double> log_probs) {
    for (double& value : log_probs) value = -std::log(50.0);
    if (row == 1) log_probs[0] = -INFINITY;
  };
  KldBaseWriter writer(file_, SmallInfo(), kNext, 1);
  writer.Add(5, 0, Piece(0), full);
  writer.Commit();
  const KldBase base = KldBase::Open(file_, SmallInfo());
  std::vector<double> found(50);
  for (size_t row = 0; row < kNext; ++row) {
    base.All().front().log_probs(row, found);
    for (double value : found) EXPECT_NEAR(value, -std::log(50.0), 1e-6);
  }
}

TEST_F(KldBaseTest, OtherPiecesAndModelsAreRefused) {
  const KldBase base = KldBase::Open(file_, SmallInfo());
  const auto refused = [&](int64_t length, int trial, const TextPiece& piece, int n_next) {
    ExpectError(ErrorCode::kMismatch, "does not hold piece",
                [&] { base.Find(length, trial, piece, n_next); });
  };
  refused(6, 0, Piece(0), kNext);
  refused(5, 1, Piece(0), kNext);
  refused(5, 0, Piece(1), kNext);
  refused(5, 0, Piece(0), kNext + 1);
  TextPiece shorter = Piece(0);
  shorter.tokens.pop_back();
  refused(5, 0, shorter, kNext);
  ModelInfo other = SmallInfo();
  other.fingerprint = "fedcba9876543210";
  ExpectError(ErrorCode::kMismatch, "fedcba9876543210", [&] { KldBase::Open(file_, other); });
  ExpectError(ErrorCode::kNotFound, "no.base",
              [&] { KldBase::Open(folder_ / "no.base", SmallInfo()); });
}

TEST_F(KldBaseTest, DamageIsFoundWhereverItIs) {
  const auto parse = [](const std::string& bytes) {
    KldBase::Parse(AsBytes(bytes), "a.base", SmallInfo());
  };
  parse(bytes_);
  for (size_t at = 0; at < bytes_.size(); ++at) {
    std::string damaged = bytes_;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    EXPECT_THROW(parse(damaged), Error) << at;
    EXPECT_THROW(parse(bytes_.substr(0, at)), Error) << at;
  }
  ExpectError(ErrorCode::kFormat, "1 bytes too many", [&] { parse(bytes_ + "x"); });
  ExpectError(ErrorCode::kFormat, "is not a KLD base", [&] { parse("an essay"); });
  std::string newer = bytes_;
  newer[8] = 2;
  ExpectError(ErrorCode::kMismatch, "version 2", [&] { parse(newer); });
  // Lengths that no file could hold.
  std::string vast = bytes_;
  for (size_t i = 48; i < 56; ++i) vast[i] = '\xff';
  ExpectError(ErrorCode::kFormat, "too early", [&] { parse(vast); });
}

// What is compared with a base is what is compared with the full cache itself.
TEST_F(KldBaseTest, DivergencesAreThoseOfTheFullCache) {
  const TextPiece piece = testing::SomePiece(120);
  SessionOptions options;
  options.n_threads = 1;
  Plan plan;
  plan.scorer = "knorm";
  plan.keep = Keep::Parse("40%");
  plan.window = 8;
  const std::vector<Plan> plans = {Plan(), plan};
  const ModelInfo& info = testing::SmallModel().info();
  {
    KldBaseWriter writer(file_, info, 16, 1);
    writer.Add(103, 0, piece, PredictFull(testing::SmallModel(), piece, 16, options));
    writer.Commit();
  }
  const KldBase base = KldBase::Open(file_, info);
  const FullPredictions known = base.Find(103, 0, piece, 16);
  const auto exact =
      RunKld(testing::SmallModel(), piece, 16, plans, Compression::kWhileReading, options);
  const auto found =
      RunKld(testing::SmallModel(), piece, 16, plans, Compression::kWhileReading, options, &known);
  EXPECT_EQ(found[0].nll, exact[0].nll);
  EXPECT_EQ(found[1].nll, exact[1].nll);
  EXPECT_EQ(found[1].same_top, exact[1].same_top);
  for (size_t i = 0; i < 16; ++i) {
    EXPECT_NEAR(found[1].divergence[i], exact[1].divergence[i], 1e-4) << i;
  }
}

}  // namespace
}  // namespace pith
