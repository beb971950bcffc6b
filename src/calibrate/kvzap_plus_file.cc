#include "calibrate/kvzap_plus_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>

#include "base/fail.h"

namespace pith {
namespace {

constexpr std::string_view kPrefix = "kvzap_plus.";
constexpr const char* kQuantiles = "kvzap_plus.quantiles";
constexpr size_t kParts = 4;
constexpr int64_t kMost = int64_t{1} << 24;

std::string Name(size_t layer, const char* part) {
  return fmt::format("{}layers.{}.{}", kPrefix, layer, part);
}

// Of shape [n_rows, n_columns]; 0 stands for any size and is set.
std::vector<float> Matrix(const SafeTensors& tensors, size_t layer, const char* part, int& n_rows,
                          int& n_columns) {
  const std::string name = Name(layer, part);
  const std::vector<int64_t>& shape = tensors.Get(name).shape;
  const auto fits = [&](size_t i, int expected) {
    return shape[i] >= 1 && shape[i] <= kMost && (expected == 0 || shape[i] == expected);
  };
  if (shape.size() != 2 || !fits(0, n_rows) || !fits(1, n_columns)) {
    Fail(ErrorCode::kFormat, "{}: {} is [{}], expected [{}, {}] (0: any size)", tensors.name(),
         name, fmt::join(shape, ", "), n_rows, n_columns);
  }
  n_rows = static_cast<int>(shape[0]);
  n_columns = static_cast<int>(shape[1]);
  return FiniteFloats(tensors, name);
}

}  // namespace

std::optional<KvzapPlusSurrogate> ReadKvzapPlus(const SafeTensors& tensors) {
  const auto n_tensors = static_cast<size_t>(
      std::count_if(tensors.tensors().begin(), tensors.tensors().end(), [](const auto& tensor) {
        return tensor.first.starts_with(kPrefix) && tensor.first != kQuantiles;
      }));
  if (n_tensors == 0) return std::nullopt;
  const size_t n_layers = n_tensors / kParts;
  KvzapPlusSurrogate surrogate;
  int n_rows = 0;
  int n_norms = 2;
  for (size_t i = 0; i < std::max<size_t>(1, n_layers); ++i) {
    KvzapPlusLayer& layer = surrogate.layers.emplace_back();
    layer.weight = Matrix(tensors, i, "weight", n_rows, surrogate.n_embd);
    layer.key_weight = Matrix(tensors, i, "key_weight", n_rows, surrogate.head_dim);
    layer.norm_weight = Matrix(tensors, i, "norm_weight", n_rows, n_norms);
    layer.bias = FiniteFloats(tensors, Name(i, "bias"));
    if (n_rows % 2 != 0 || layer.bias.size() != static_cast<size_t>(n_rows)) {
      Fail(ErrorCode::kFormat,
           "{}: {} has {} values and the weights {} rows, expected as many, two for each KV head",
           tensors.name(), Name(i, "bias"), layer.bias.size(), n_rows);
    }
  }
  surrogate.n_kv_heads = n_rows / 2;
  if (n_tensors != n_layers * kParts) {
    Fail(ErrorCode::kFormat, "{}: {} tensors {}* are not the {} of each of {} layers",
         tensors.name(), n_tensors, kPrefix, kParts, n_layers);
  }
  if (tensors.Find(kQuantiles)) surrogate.quantiles = ReadQuantiles(tensors, kQuantiles);
  return surrogate;
}

void AddKvzapPlus(const KvzapPlusSurrogate& surrogate, KvzapTensors& memory,
                  std::map<std::string, SafeTensor, std::less<>>& tensors) {
  const int64_t n_rows = int64_t{2} * surrogate.n_kv_heads;
  for (size_t i = 0; i < surrogate.layers.size(); ++i) {
    const KvzapPlusLayer& layer = surrogate.layers[i];
    tensors[Name(i, "weight")] = memory.Tensor(layer.weight, {n_rows, surrogate.n_embd});
    tensors[Name(i, "key_weight")] = memory.Tensor(layer.key_weight, {n_rows, surrogate.head_dim});
    tensors[Name(i, "norm_weight")] = memory.Tensor(layer.norm_weight, {n_rows, 2});
    tensors[Name(i, "bias")] = memory.Tensor(layer.bias, {n_rows});
  }
  if (!surrogate.quantiles.empty()) {
    tensors[kQuantiles] = {"F32",
                           {static_cast<int64_t>(surrogate.quantiles.size())},
                           std::as_bytes(std::span(surrogate.quantiles))};
  }
}

}  // namespace pith
