// A surrogate in a calibration file: what is written is read again, published names, refusals.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "base/safetensors.h"
#include "pith/calibration.h"
#include "tools/expect_error.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::ExpectError;
using testing::TempFolder;

// Values that f16 holds, all different.
std::vector<float> Halves(size_t n, float first) {
  std::vector<float> values;
  for (size_t i = 0; i < n; ++i) values.push_back(first + static_cast<float>(i) / 64);
  return values;
}

KvzapSurrogate Surrogate(int n_hidden) {
  KvzapSurrogate surrogate;
  surrogate.n_embd = 6;
  surrogate.n_kv_heads = 2;
  surrogate.n_hidden = n_hidden;
  for (int i = 0; i < 3; ++i) {
    KvzapLayer& layer = surrogate.layers.emplace_back();
    const auto hidden = static_cast<size_t>(n_hidden);
    if (n_hidden > 0) layer.weight_in = Halves(hidden * 6, static_cast<float>(-i));
    if (n_hidden > 0) layer.bias_in = Halves(hidden, 0.1f);  // no f16 numbers
    layer.weight = Halves(2 * (n_hidden > 0 ? hidden : 6), static_cast<float>(i));
    layer.bias = {-4.3f, static_cast<float>(i)};
  }
  surrogate.quantiles = {-9.7f, -5, -1};
  return surrogate;
}

void ExpectSame(const KvzapSurrogate& a, const KvzapSurrogate& b) {
  EXPECT_EQ(a.n_embd, b.n_embd);
  EXPECT_EQ(a.n_kv_heads, b.n_kv_heads);
  EXPECT_EQ(a.n_hidden, b.n_hidden);
  EXPECT_EQ(a.quantiles, b.quantiles);
  ASSERT_EQ(a.layers.size(), b.layers.size());
  for (size_t i = 0; i < a.layers.size(); ++i) {
    EXPECT_EQ(a.layers[i].weight_in, b.layers[i].weight_in) << i;
    EXPECT_EQ(a.layers[i].bias_in, b.layers[i].bias_in) << i;
    EXPECT_EQ(a.layers[i].weight, b.layers[i].weight) << i;
    EXPECT_EQ(a.layers[i].bias, b.layers[i].bias) << i;
  }
}

TEST(KvzapFile, ComesBackExactlyBesideFiltersOrAlone) {
  const TempFolder folder;
  for (const int n_hidden : {0, 4}) {
    for (const bool with_filters : {false, true}) {
      Calibration saved;
      saved.n_layers = 3;
      saved.n_kv_heads = 2;
      saved.kvzap = Surrogate(n_hidden);
      if (with_filters) {
        saved.head_dim = 4;
        saved.q_filters = Halves(24, 0.3f);
      }
      saved.metadata["kvzap_r2"] = "0.63";
      saved.Save(folder / "a.pithcal");
      const Calibration loaded = Calibration::Load(folder / "a.pithcal");
      EXPECT_EQ(loaded.q_filters, saved.q_filters);
      EXPECT_EQ(loaded.head_dim, saved.head_dim);
      EXPECT_EQ(loaded.n_layers, 3);
      EXPECT_EQ(loaded.metadata.at("kvzap_r2"), "0.63");
      ASSERT_TRUE(loaded.kvzap.has_value());
      ExpectSame(*loaded.kvzap, *saved.kvzap);
      const SafeTensors tensors = SafeTensors::Open(folder / "a.pithcal");
      const std::string outer = n_hidden == 0 ? "layers.2.weight" : "layers.2.2.weight";
      EXPECT_EQ(tensors.Get(outer).dtype, "F16");
      EXPECT_EQ(tensors.Get(n_hidden == 0 ? "layers.0.bias" : "layers.0.2.bias").dtype, "F32");
      EXPECT_EQ(tensors.tensors().size(),
                (n_hidden == 0 ? 6u : 12u) + 1 + (with_filters ? 1u : 0u));
    }
  }
}

// Writes tensors of f32 zeros, some of them given.
class Published {
 public:
  void Zeros(const std::string& name, std::vector<int64_t> shape) {
    size_t n = 1;
    for (const int64_t dim : shape) n *= static_cast<size_t>(dim);
    Values(name, std::move(shape), std::vector<float>(n));
  }
  void Values(const std::string& name, std::vector<int64_t> shape, std::vector<float> values) {
    values_[name] = std::move(values);
    tensors_[name] = {"F32", std::move(shape), std::as_bytes(std::span(values_[name]))};
  }
  void Linear(int n_layers) {
    for (int i = 0; i < n_layers; ++i) {
      const std::string layer = "layers." + std::to_string(i);
      Zeros(layer + ".weight", {2, 6});
      Zeros(layer + ".bias", {2});
    }
  }
  void Save(const std::filesystem::path& file) { WriteSafeTensors(file, tensors_, {}); }

 private:
  std::map<std::string, std::vector<float>> values_;
  std::map<std::string, SafeTensor, std::less<>> tensors_;
};

TEST(KvzapFile, ReadsPublishedFiles) {
  const TempFolder folder;
  Published linear;
  linear.Linear(12);  // by name "layers.10" stands before "layers.2"
  linear.Values("layers.10.bias", {2}, {-3, -7});
  linear.Save(folder / "linear");
  const Calibration calibration = Calibration::Load(folder / "linear");
  ASSERT_TRUE(calibration.kvzap.has_value());
  EXPECT_EQ(calibration.n_layers, 12);
  EXPECT_EQ(calibration.kvzap->n_hidden, 0);
  EXPECT_EQ(calibration.kvzap->layers[10].bias, (std::vector<float>{-3, -7}));
  EXPECT_TRUE(calibration.kvzap->quantiles.empty());

  Published mlp;
  for (int i = 0; i < 2; ++i) {
    const std::string layer = "layers." + std::to_string(i);
    mlp.Zeros(layer + ".0.weight", {3, 6});
    mlp.Zeros(layer + ".0.bias", {3});
    mlp.Values(layer + ".2.weight", {2, 3}, {1, 2, 3, 4, 5, 6});
    mlp.Zeros(layer + ".2.bias", {2});
  }
  mlp.Save(folder / "mlp");
  const Calibration network = Calibration::Load(folder / "mlp");
  EXPECT_EQ(network.kvzap->n_hidden, 3);
  EXPECT_EQ(network.kvzap->layers[1].weight, (std::vector<float>{1, 2, 3, 4, 5, 6}));
}

TEST(KvzapFile, RefusesWhatIsWrong) {
  const TempFolder folder;
  const auto refuse = [&](const std::string& words, const std::function<void(Published&)>& change) {
    Published file;
    file.Linear(3);
    change(file);
    file.Save(folder / "x");
    ExpectError(ErrorCode::kFormat, words, [&] { Calibration::Load(folder / "x"); });
  };
  refuse("element 5 of layers.1.weight is nan", [](Published& file) {
    std::vector<float> values(12);
    values[5] = NAN;
    file.Values("layers.1.weight", {2, 6}, values);
  });
  refuse("element 1 of layers.2.bias is inf", [](Published& file) {
    file.Values("layers.2.bias", {2}, {0, INFINITY});
  });
  refuse("layers.1.weight is [2, 5], expected [2, 6]", [](Published& file) {
    file.Zeros("layers.1.weight", {2, 5});
  });
  refuse("layers.1.bias has 3 values, expected 2",
         [](Published& file) { file.Zeros("layers.1.bias", {3}); });
  refuse("layers.0.weight is not a matrix",
         [](Published& file) { file.Zeros("layers.0.weight", {12}); });
  refuse("7 tensors layers.*", [](Published& file) { file.Zeros("layers.4.weight", {2, 6}); });
  refuse("no tensor layers.3.weight", [](Published& file) {
    file.Zeros("layers.4.weight", {2, 6});
    file.Zeros("layers.4.bias", {2});
  });
  refuse("ascending", [](Published& file) { file.Values("kvzap.quantiles", {2}, {1, 0}); });
  refuse("its surrogate has 3 layers and 2 KV heads, but its Q-Filters have 3 and 1",
         [](Published& file) {
           file.Zeros("q_filters", {3, 1, 4});
         });
}

TEST(KvzapFile, FitsModelsOfItsShapeOnly) {
  Calibration calibration;
  calibration.kvzap = Surrogate(0);
  ModelInfo model;
  model.name = "small";
  model.n_layers = 3;
  model.n_kv_heads = 2;
  model.n_embd = 6;
  calibration.CheckFits(model);
  for (int ModelInfo::*field : {&ModelInfo::n_layers, &ModelInfo::n_kv_heads, &ModelInfo::n_embd}) {
    ModelInfo other = model;
    other.*field += 1;
    ExpectError(ErrorCode::kMismatch, "the surrogate is for 3 layers",
                [&] { calibration.CheckFits(other); });
  }
}

}  // namespace
}  // namespace pith
