// Loss curves: against attention written out in double precision, and the file that holds them.
#include "calibrate/keep_curves.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "tools/expect_error.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::ExpectError;
using testing::TempFolder;

constexpr size_t kTokens = 60, kAsking = 5, kDim = 8;
constexpr int kGroup = 2;

std::vector<float> RandomRows(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> rows(n * kDim);
  for (float& element : rows) element = normal(random);
  return rows;
}

MatrixView<const float> View(const std::vector<float>& rows) {
  return {rows.data(), rows.size() / kDim, kDim, kDim};
}

// A query head that writes three numbers.
double OutputElement(int g, int row, const double* values) {
  double sum = 0;
  for (size_t d = 0; d < kDim; ++d) {
    sum += std::cos(1 + g + 3 * row + static_cast<double>(d)) * values[d];
  }
  return sum;
}

double SquareNorm(int g, const double* values) {
  double sum = 0;
  for (int row = 0; row < 3; ++row) sum += std::pow(OutputElement(g, row, values), 2);
  return sum;
}

TEST(KeepCurves, AreTheLossOfLeavingOutTheEndOfTheOrder) {
  const std::vector<float> keys = RandomRows(kTokens, 1), values = RandomRows(kTokens, 2),
                           queries = RandomRows(kAsking * kGroup, 3);
  std::vector<int32_t> order;
  for (int32_t token = 3; token < 50; ++token) order.push_back(token);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(4));
  std::vector<double> curve(KeepCurves::kPoints, 1.0);  // it is added to
  double output = 2;
  AddLossOfKeeping(
      {View(keys), View(values), View(queries), kGroup, order},
      [](int g, MatrixView<const float> rows, std::span<float> norms) {
        for (size_t i = 0; i < rows.rows; ++i) {
          const std::vector<double> row(rows.row(i), rows.row(i) + kDim);
          norms[i] = static_cast<float>(std::sqrt(SquareNorm(g, row.data())));
        }
      },
      curve, output);

  // What query j of head g attends to among the tokens that are left.
  const auto attend = [&](size_t j, int g, const std::vector<bool>& left) {
    std::vector<double> sum(kDim);
    double total = 0;
    for (size_t token = 0; token <= kTokens - kAsking + j; ++token) {
      if (!left[token]) continue;
      double dot = 0;
      for (size_t d = 0; d < kDim; ++d) {
        dot += double{queries[(j * kGroup + static_cast<size_t>(g)) * kDim + d]} *
               keys[token * kDim + d];
      }
      const double weight = std::exp(dot / std::sqrt(double{kDim}));
      total += weight;
      for (size_t d = 0; d < kDim; ++d) sum[d] += weight * values[token * kDim + d];
    }
    for (double& element : sum) element /= total;
    return sum;
  };
  const std::vector<bool> all(kTokens, true);
  double wanted_output = 2;
  for (size_t j = 0; j < kAsking; ++j) {
    for (int g = 0; g < kGroup; ++g) {
      wanted_output += SquareNorm(g, attend(j, g, all).data()) / kAsking;
    }
  }
  EXPECT_NEAR(output, wanted_output, 1e-5);
  for (int i = 0; i < KeepCurves::kPoints; ++i) {
    const auto n_kept =
        static_cast<size_t>(std::lround(KeepCurves::Share(i) * static_cast<double>(order.size())));
    std::vector<bool> left(kTokens, true);
    for (size_t rank = n_kept; rank < order.size(); ++rank) {
      left[static_cast<size_t>(order[rank])] = false;
    }
    double wanted = 1;
    for (size_t j = 0; j < kAsking; ++j) {
      for (int g = 0; g < kGroup; ++g) {
        std::vector<double> error = attend(j, g, all);
        const std::vector<double> rest = attend(j, g, left);
        for (size_t d = 0; d < kDim; ++d) error[d] -= rest[d];
        wanted += SquareNorm(g, error.data()) / kAsking;
      }
    }
    EXPECT_NEAR(curve[static_cast<size_t>(i)], wanted, 1e-5) << i;
  }
  EXPECT_GT(curve.front(), 1.1);
  EXPECT_EQ(curve.back(), 1.0);
}

KeepCurves SmallCurves() {
  KeepCurves curves{2, 3, {}};
  for (int i = 0; i < 6 * KeepCurves::kPoints; ++i) {
    curves.loss.push_back(0.01f * static_cast<float>(i % 7));
  }
  return curves;
}

TEST(KeepCurves, StandInACalibrationOfTheModel) {
  const TempFolder folder;
  Calibration saved;
  saved.n_layers = 2;
  saved.n_kv_heads = 3;
  saved.head_dim = 2;
  saved.q_filters.assign(12, 1.0f);
  saved.curves = SmallCurves();
  saved.Save(folder / "x");
  const Calibration loaded = Calibration::Load(folder / "x");
  ASSERT_TRUE(loaded.curves);
  EXPECT_EQ(loaded.curves->loss, saved.curves->loss);
  EXPECT_EQ(loaded.curves->n_kv_heads, 3);
  ModelInfo model;
  model.n_layers = 2;
  model.n_heads = 6;
  model.n_kv_heads = 3;
  model.head_dim = 2;
  loaded.CheckFits(model);
  saved.curves->loss.pop_back();
  ExpectError(ErrorCode::kMismatch, "there are 197 losses of 2 layers and 3 KV heads",
              [&] { saved.CheckFits(model); });

  saved.curves = SmallCurves();
  saved.q_filters.assign(8, 1.0f);
  saved.n_kv_heads = 2;
  saved.Save(folder / "x");
  ExpectError(ErrorCode::kFormat, "2 layers and 3 KV heads, all else of 2 and 2",
              [&] { Calibration::Load(folder / "x"); });
}

TEST(KeepCurves, DamagedFilesAreRefused) {
  const TempFolder folder;
  const std::vector<float> filters(4, 1.0f);
  const auto load = [&](const std::vector<int64_t>& shape, const std::vector<float>& loss) {
    WriteSafeTensors(folder / "x",
                     {{"q_filters", {"F32", {1, 2, 2}, std::as_bytes(std::span(filters))}},
                      {"keep_loss", {"F32", shape, std::as_bytes(std::span(loss))}}},
                     {});
    Calibration::Load(folder / "x");
  };
  std::vector<float> loss(2 * KeepCurves::kPoints, 0.5f);
  load({1, 2, KeepCurves::kPoints}, loss);
  ExpectError(ErrorCode::kFormat, "keep_loss is [2, 33], expected [layers, KV heads, 33]", [&] {
    load({2, KeepCurves::kPoints}, loss);
  });
  ExpectError(ErrorCode::kFormat, "keep_loss is [1, 33, 2]", [&] {
    load({1, KeepCurves::kPoints, 2}, loss);
  });
  loss[40] = -0.25f;
  ExpectError(ErrorCode::kFormat, "a loss in keep_loss is -0.25, expected 0 or more", [&] {
    load({1, 2, KeepCurves::kPoints}, loss);
  });
  loss[40] = NAN;
  ExpectError(ErrorCode::kFormat, "element 40 of keep_loss is nan", [&] {
    load({1, 2, KeepCurves::kPoints}, loss);
  });
}

}  // namespace
}  // namespace pith
