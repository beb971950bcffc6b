// A KVzap surrogate as safetensors, under the names of the published ones.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/safetensors.h"
#include "pith/calibration.h"

namespace pith {

// The values of a tensor. Throws Error(kFormat) unless it is there and all are finite.
std::vector<float> FiniteFloats(const SafeTensors& tensors, std::string_view name);

// Nothing where no tensor is called `layers.`. Throws Error(kFormat).
std::optional<KvzapSurrogate> ReadKvzap(const SafeTensors& tensors);

// Throws Error(kFormat) unless they are two or more ascending numbers.
std::vector<float> ReadQuantiles(const SafeTensors& tensors, std::string_view name);

// Throws Error(kFormat) unless it has so many layers and heads. `name` is for messages.
void CheckKvzapShape(const KvzapSurrogate& surrogate, int n_layers, int n_kv_heads,
                     const std::string& name);

// Tensors of a surrogate, and the memory of those that are converted to f16.
class KvzapTensors {
 public:
  // `surrogate` must outlive the use of `tensors`.
  void Add(const KvzapSurrogate& surrogate,
           std::map<std::string, SafeTensor, std::less<>>& tensors);

  // F16 where that loses nothing. `values` must outlive the use of the result.
  SafeTensor Tensor(const std::vector<float>& values, std::vector<int64_t> shape);

 private:
  std::deque<std::vector<uint16_t>> halves_;
};

}  // namespace pith
