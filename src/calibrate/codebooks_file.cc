#include "calibrate/codebooks_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>

#include "base/fail.h"
#include "base/printable.h"
#include "cache/pq_codebook.h"

namespace pith {
namespace {

constexpr std::string_view kPrefix = "codebooks.";
constexpr const char* kCentre = "codebooks.centre";
constexpr const char* kMap = "codebooks.map";
constexpr const char* kEnergy = "codebooks.energy";

constexpr int64_t kMostHeads = int64_t{1} << 16;
constexpr int64_t kMostDims = int64_t{1} << 12;

std::vector<float> Values(const SafeTensors& tensors, const std::string& name,
                          const std::vector<int64_t>& shape) {
  const std::vector<int64_t>& found = tensors.Get(name).shape;
  if (found != shape) {
    Fail(ErrorCode::kFormat, "{}: {} is [{}], expected [{}]", tensors.name(), Printable(name),
         fmt::join(found, ", "), fmt::join(shape, ", "));
  }
  return FiniteFloats(tensors, name);
}

std::vector<int64_t> CentroidsShape(const PqCodebooks& codebooks, const PqShape& shape) {
  return {codebooks.n_layers, codebooks.n_kv_heads, shape.n_subspaces, shape.n_centroids(),
          codebooks.head_dim / shape.n_subspaces};
}

}  // namespace

std::optional<PqCodebooks> ReadCodebooks(const SafeTensors& tensors) {
  const bool has_any =
      std::any_of(tensors.tensors().begin(), tensors.tensors().end(),
                  [](const auto& tensor) { return tensor.first.starts_with(kPrefix); });
  if (!has_any) return std::nullopt;
  const std::vector<int64_t>& dims = tensors.Get(kCentre).shape;
  if (dims.size() != 3 || dims[0] < 1 || dims[0] > kMostHeads || dims[1] < 1 ||
      dims[1] > kMostHeads || dims[2] < 1 || dims[2] > kMostDims) {
    Fail(ErrorCode::kFormat, "{}: {} is [{}], expected [layers, KV heads, head dimensions]",
         tensors.name(), kCentre, fmt::join(dims, ", "));
  }
  PqCodebooks codebooks;
  codebooks.n_layers = static_cast<int>(dims[0]);
  codebooks.n_kv_heads = static_cast<int>(dims[1]);
  codebooks.head_dim = static_cast<int>(dims[2]);
  codebooks.centre = FiniteFloats(tensors, kCentre);
  codebooks.map = Values(tensors, kMap, {dims[0], dims[1], dims[2], dims[2]});
  if (tensors.tensors().contains(kEnergy)) codebooks.energy = Values(tensors, kEnergy, dims);
  for (const auto& [name, tensor] : tensors.tensors()) {
    if (!name.starts_with(kPrefix) || name == kCentre || name == kMap || name == kEnergy) continue;
    const std::optional<PqShape> shape =
        ParsePqShape(std::string_view(name).substr(kPrefix.size()));
    if (!shape || codebooks.head_dim % shape->n_subspaces != 0) {
      Fail(ErrorCode::kFormat,
           "{}: {} is no codebook for {} dimensions, expected pq8xM or pq4xM with M that divides "
           "them",
           tensors.name(), Printable(name), codebooks.head_dim);
    }
    codebooks.centroids[shape->name()] = Values(tensors, name, CentroidsShape(codebooks, *shape));
  }
  return codebooks;
}

void AddCodebooks(const PqCodebooks& codebooks, KvzapTensors& memory,
                  std::map<std::string, SafeTensor, std::less<>>& tensors) {
  const int64_t n_layers = codebooks.n_layers;
  const int64_t n_heads = codebooks.n_kv_heads;
  const int64_t dim = codebooks.head_dim;
  tensors[kCentre] = memory.Tensor(codebooks.centre, {n_layers, n_heads, dim});
  tensors[kMap] = memory.Tensor(codebooks.map, {n_layers, n_heads, dim, dim});
  if (!codebooks.energy.empty()) {
    tensors[kEnergy] = memory.Tensor(codebooks.energy, {n_layers, n_heads, dim});
  }
  for (const auto& [name, centroids] : codebooks.centroids) {
    tensors[std::string(kPrefix) + name] =
        memory.Tensor(centroids, CentroidsShape(codebooks, ParsePqShape(name).value()));
  }
}

}  // namespace pith
