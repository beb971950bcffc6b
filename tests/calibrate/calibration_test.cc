#include "pith/calibration.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/safetensors.h"
#include "calibrate/metadata_keys.h"
#include "tools/expect_error.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::ExpectError;
using testing::TempFolder;

Calibration SmallCalibration() {
  Calibration calibration;
  calibration.n_layers = 2;
  calibration.n_kv_heads = 3;
  calibration.head_dim = 4;
  for (int i = 0; i < 24; ++i) calibration.q_filters.push_back(std::sin(static_cast<float>(i)));
  calibration.metadata = {{kModelKey, "small"}, {kFingerprintKey, "00ff"}, {kSeedKey, "42"}};
  return calibration;
}

ModelInfo SmallModel() {
  ModelInfo model;
  model.name = "small";
  model.fingerprint = "00ff";
  model.n_layers = 2;
  model.n_heads = 6;
  model.n_kv_heads = 3;
  model.head_dim = 4;
  return model;
}

void WriteFilters(const std::filesystem::path& file, const std::vector<int64_t>& shape,
                  const std::vector<float>& values,
                  const std::map<std::string, std::string>& metadata = {}) {
  WriteSafeTensors(file, {{"q_filters", {"F32", shape, std::as_bytes(std::span(values))}}},
                   metadata);
}

TEST(Calibration, SavesWhatItLoads) {
  const TempFolder folder;
  const Calibration saved = SmallCalibration();
  saved.Save(folder / "a.pithcal");
  const Calibration loaded = Calibration::Load(folder / "a.pithcal");
  EXPECT_EQ(loaded.n_layers, 2);
  EXPECT_EQ(loaded.n_kv_heads, 3);
  EXPECT_EQ(loaded.head_dim, 4);
  EXPECT_EQ(loaded.q_filters, saved.q_filters);
  EXPECT_EQ(loaded.metadata.at(kFormatKey), "pith-calibration-1");
  EXPECT_EQ(loaded.metadata.at(kSeedKey), "42");
  EXPECT_EQ(loaded.metadata.size(), 4u);
  loaded.CheckFits(SmallModel());
  ExpectError(ErrorCode::kIo, "cannot be written", [&] { saved.Save(folder / "none/a.pithcal"); });
  Calibration broken = saved;
  broken.q_filters.pop_back();
  ExpectError(ErrorCode::kInvalidArgument, "not what its shape needs",
              [&] { broken.Save(folder / "b.pithcal"); });
  EXPECT_FALSE(std::filesystem::exists(folder / "b.pithcal"));
}

TEST(Calibration, LoadsPublishedFiles) {
  const Calibration golden = Calibration::Load(PITH_TEST_DATA "/qfilters.safetensors");
  EXPECT_EQ(golden.n_layers, 30);
  EXPECT_EQ(golden.n_kv_heads, 3);
  EXPECT_EQ(golden.head_dim, 64);
  EXPECT_EQ(golden.q_filters.size(), 30u * 3 * 64);
  const TempFolder folder;
  const std::vector<uint16_t> halves = {0x3c00, 0xc000, 0x3800, 0x0000};  // 1, -2, 0.5, 0
  WriteSafeTensors(folder / "half",
                   {{"q_filters", {"F16", {1, 1, 4}, std::as_bytes(std::span(halves))}}},
                   {{"format", "pt"}});
  EXPECT_EQ(Calibration::Load(folder / "half").q_filters, (std::vector<float>{1, -2, 0.5, 0}));
}

TEST(Calibration, RefusesDamagedFiles) {
  const TempFolder folder;
  constexpr auto kFormat = ErrorCode::kFormat;
  const auto load = [&] { Calibration::Load(folder / "x"); };
  ExpectError(ErrorCode::kNotFound, "there is no such file", load);
  testing::WriteWhole(folder / "x", "");
  ExpectError(kFormat, "is empty", load);
  testing::WriteWhole(folder / "x", "GGUF and something that is no calibration");
  ExpectError(kFormat, "not a safetensors file", load);
  WriteSafeTensors(folder / "x", {}, {});
  ExpectError(kFormat, "there is no tensor q_filters", load);
  WriteFilters(folder / "x", {2, 3}, std::vector<float>(6));
  ExpectError(kFormat, "has 2 dimensions, expected 3", load);
  WriteFilters(folder / "x", {2, 0, 4}, {});
  ExpectError(kFormat, "a dimension of 0", load);
  WriteFilters(folder / "x", {int64_t{1} << 40, 0, 4}, {});
  ExpectError(kFormat, "a dimension of", load);
  WriteFilters(folder / "x", {1, 1, 2}, {1, std::numeric_limits<float>::quiet_NaN()});
  ExpectError(kFormat, "element 1 of q_filters is nan", load);
  WriteFilters(folder / "x", {1, 1, 2}, {-std::numeric_limits<float>::infinity(), 1});
  ExpectError(kFormat, "element 0 of q_filters is -inf", load);
  WriteFilters(folder / "x", {1, 1, 2}, {1, 2}, {{"format", "pith-calibration-2"}});
  ExpectError(ErrorCode::kUnsupported, "pith-calibration-2, expected pith-calibration-1", load);
  const std::vector<int32_t> ints = {1, 2};
  WriteSafeTensors(folder / "x",
                   {{"q_filters", {"I32", {1, 1, 2}, std::as_bytes(std::span(ints))}}}, {});
  ExpectError(kFormat, "the dtype I32", load);
}

TEST(Calibration, EveryCutOfAFileIsRefused) {
  const TempFolder folder;
  SmallCalibration().Save(folder / "whole");
  const std::string bytes = testing::ReadWhole(folder / "whole");
  for (size_t size = 0; size < bytes.size(); size += 3) {
    testing::WriteWhole(folder / "cut", bytes.substr(0, size));
    EXPECT_THROW(Calibration::Load(folder / "cut"), Error) << size;
  }
}

TEST(Calibration, FitsItsOwnModelOnly) {
  const Calibration calibration = SmallCalibration();
  calibration.CheckFits(SmallModel());
  for (int ModelInfo::*field :
       {&ModelInfo::n_layers, &ModelInfo::n_kv_heads, &ModelInfo::head_dim}) {
    ModelInfo model = SmallModel();
    ++(model.*field);
    ExpectError(ErrorCode::kMismatch, "for 2 layers, 3 KV heads and 4 dimensions",
                [&] { calibration.CheckFits(model); });
    ExpectError(ErrorCode::kMismatch, "for 2 layers", [&] { calibration.FiltersFor(model); });
  }
  ModelInfo other = SmallModel();
  other.name = "other";
  other.fingerprint = "ff00";
  ExpectError(ErrorCode::kMismatch, "another model: small with fingerprint 00ff, but this is other",
              [&] { calibration.CheckFits(other); });
  Calibration published = calibration;
  published.metadata.clear();
  published.CheckFits(other);
  published.q_filters.clear();
  ExpectError(ErrorCode::kInvalidArgument, "0 filter values, expected 24",
              [&] { published.CheckFits(other); });
}

TEST(Calibration, PermutesToTheModelsLayout) {
  const Calibration calibration = SmallCalibration();
  ModelInfo model = SmallModel();
  EXPECT_EQ(calibration.FiltersFor(model), calibration.q_filters);
  model.rope_interleaved = true;
  const std::vector<float> filters = calibration.FiltersFor(model);
  const std::vector<float>& half = calibration.q_filters;
  for (size_t head = 0; head < 24; head += 4) {
    EXPECT_EQ(filters[head], half[head]);
    EXPECT_EQ(filters[head + 1], half[head + 2]);
    EXPECT_EQ(filters[head + 2], half[head + 1]);
    EXPECT_EQ(filters[head + 3], half[head + 3]);
  }
  Calibration odd;
  odd.n_layers = odd.n_kv_heads = model.n_layers = model.n_kv_heads = 1;
  odd.head_dim = model.head_dim = 3;
  odd.q_filters = {1, 2, 3};
  ExpectError(ErrorCode::kMismatch, "3 dimensions cannot be interleaved",
              [&] { odd.FiltersFor(model); });
}

}  // namespace
}  // namespace pith
