#include "calibrate/kvzap_file.h"

#include <fmt/format.h>
#include <ggml-cpu.h>

#include <algorithm>
#include <cmath>

#include "base/fail.h"

namespace pith {
namespace {

constexpr std::string_view kPrefix = "layers.";
constexpr const char* kQuantiles = "kvzap.quantiles";

// layers.{i}.weight of a linear map; layers.{i}.0.weight and .2.weight around a gelu.
std::string WeightName(size_t layer, const char* part) {
  return fmt::format("{}{}{}.weight", kPrefix, layer, part);
}
std::string BiasName(size_t layer, const char* part) {
  return fmt::format("{}{}{}.bias", kPrefix, layer, part);
}
constexpr const char* kLinear = "";
constexpr const char* kInner = ".0";
constexpr const char* kOuter = ".2";

// A weight [n_out, n_in] and its bias [n_out]; 0 stands for any size and is set.
void ReadMap(const SafeTensors& tensors, size_t layer, const char* part, int& n_out, int& n_in,
             std::vector<float>& weight, std::vector<float>& bias) {
  const std::string name = WeightName(layer, part);
  const SafeTensor& tensor = tensors.Get(name);
  constexpr int64_t kMost = int64_t{1} << 24;
  if (tensor.shape.size() != 2 || tensor.shape[0] < 1 || tensor.shape[0] > kMost ||
      tensor.shape[1] < 1 || tensor.shape[1] > kMost) {
    Fail(ErrorCode::kFormat, "{}: {} is not a matrix", tensors.name(), name);
  }
  if (n_out == 0) n_out = static_cast<int>(tensor.shape[0]);
  if (n_in == 0) n_in = static_cast<int>(tensor.shape[1]);
  if (tensor.shape[0] != n_out || tensor.shape[1] != n_in) {
    Fail(ErrorCode::kFormat, "{}: {} is [{}, {}], expected [{}, {}] as in the first layer",
         tensors.name(), name, tensor.shape[0], tensor.shape[1], n_out, n_in);
  }
  weight = FiniteFloats(tensors, name);
  bias = FiniteFloats(tensors, BiasName(layer, part));
  if (bias.size() != static_cast<size_t>(n_out)) {
    Fail(ErrorCode::kFormat, "{}: {} has {} values, expected {}", tensors.name(),
         BiasName(layer, part), bias.size(), n_out);
  }
}

bool StartsWithPrefix(std::string_view name) { return name.starts_with(kPrefix); }

}  // namespace

std::vector<float> FiniteFloats(const SafeTensors& tensors, std::string_view name) {
  std::vector<float> values = tensors.Get(name).ToFloats();
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      Fail(ErrorCode::kFormat, "{}: element {} of {} is {}, expected a finite number",
           tensors.name(), i, name, values[i]);
    }
  }
  return values;
}

std::vector<float> ReadQuantiles(const SafeTensors& tensors, std::string_view name) {
  std::vector<float> quantiles = FiniteFloats(tensors, name);
  if (quantiles.size() < 2 || !std::is_sorted(quantiles.begin(), quantiles.end())) {
    Fail(ErrorCode::kFormat, "{}: {} are not two or more ascending numbers", tensors.name(), name);
  }
  return quantiles;
}

std::optional<KvzapSurrogate> ReadKvzap(const SafeTensors& tensors) {
  const auto n_tensors = static_cast<size_t>(
      std::count_if(tensors.tensors().begin(), tensors.tensors().end(),
                    [](const auto& tensor) { return StartsWithPrefix(tensor.first); }));
  if (n_tensors == 0) return std::nullopt;
  const bool is_linear = tensors.Find(WeightName(0, kLinear)) != nullptr;
  const size_t n_layers = n_tensors / (is_linear ? 2 : 4);
  KvzapSurrogate surrogate;
  for (size_t i = 0; i < std::max<size_t>(1, n_layers); ++i) {
    KvzapLayer& layer = surrogate.layers.emplace_back();
    if (is_linear) {
      ReadMap(tensors, i, kLinear, surrogate.n_kv_heads, surrogate.n_embd, layer.weight,
              layer.bias);
    } else {
      ReadMap(tensors, i, kInner, surrogate.n_hidden, surrogate.n_embd, layer.weight_in,
              layer.bias_in);
      ReadMap(tensors, i, kOuter, surrogate.n_kv_heads, surrogate.n_hidden, layer.weight,
              layer.bias);
    }
  }
  if (n_tensors != n_layers * (is_linear ? 2 : 4)) {
    Fail(ErrorCode::kFormat, "{}: {} tensors {}* are not weights and biases of {} layers",
         tensors.name(), n_tensors, kPrefix, n_layers);
  }
  if (tensors.Find(kQuantiles)) surrogate.quantiles = ReadQuantiles(tensors, kQuantiles);
  return surrogate;
}

void CheckKvzapShape(const KvzapSurrogate& surrogate, int n_layers, int n_kv_heads,
                     const std::string& name) {
  if (static_cast<int>(surrogate.layers.size()) != n_layers || surrogate.n_kv_heads != n_kv_heads) {
    Fail(ErrorCode::kFormat,
         "{}: its surrogate has {} layers and {} KV heads, but its Q-Filters have {} and {}", name,
         surrogate.layers.size(), surrogate.n_kv_heads, n_layers, n_kv_heads);
  }
}

SafeTensor KvzapTensors::Tensor(const std::vector<float>& values, std::vector<int64_t> shape) {
  std::vector<uint16_t> halves(values.size());
  ggml_cpu_fp32_to_fp16(values.data(), halves.data(), static_cast<int64_t>(values.size()));
  const bool is_exact =
      std::equal(values.begin(), values.end(), halves.begin(),
                 [](float value, uint16_t half) { return value == ggml_fp16_to_fp32(half); });
  if (!is_exact) return {"F32", std::move(shape), std::as_bytes(std::span(values))};
  halves_.push_back(std::move(halves));
  return {"F16", std::move(shape), std::as_bytes(std::span(halves_.back()))};
}

void KvzapTensors::Add(const KvzapSurrogate& surrogate,
                       std::map<std::string, SafeTensor, std::less<>>& tensors) {
  const int64_t n_embd = surrogate.n_embd;
  const int64_t n_hidden = surrogate.n_hidden;
  const int64_t n_heads = surrogate.n_kv_heads;
  for (size_t i = 0; i < surrogate.layers.size(); ++i) {
    const KvzapLayer& layer = surrogate.layers[i];
    const char* outer = n_hidden == 0 ? kLinear : kOuter;
    tensors[WeightName(i, outer)] =
        Tensor(layer.weight, {n_heads, n_hidden == 0 ? n_embd : n_hidden});
    tensors[BiasName(i, outer)] = Tensor(layer.bias, {n_heads});
    if (n_hidden == 0) continue;
    tensors[WeightName(i, kInner)] = Tensor(layer.weight_in, {n_hidden, n_embd});
    tensors[BiasName(i, kInner)] = Tensor(layer.bias_in, {n_hidden});
  }
  if (!surrogate.quantiles.empty()) {
    tensors[kQuantiles] = {"F32",
                           {static_cast<int64_t>(surrogate.quantiles.size())},
                           std::as_bytes(std::span(surrogate.quantiles))};
  }
}

}  // namespace pith
