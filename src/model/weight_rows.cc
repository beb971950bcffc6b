#include "model/weight_rows.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include <ggml.h>

#include "base/fail.h"

namespace pith {

void ForEachWeightRows(
    const GgufFile& file, const std::string& name, int64_t n_in, int64_t n_out,
    const std::function<void(int64_t first, MatrixView<const float> rows)>& visit) {
  const ggml_tensor* tensor = file.FindTensor(name);
  if (!tensor) Fail(ErrorCode::kFormat, "{}: tensor {} is missing", file.name(), name);
  if (tensor->ne[0] != n_in || ggml_nrows(tensor) != n_out) {
    Fail(ErrorCode::kFormat, "{}: tensor {} has shape [{}, {}], expected [{}, {}]", file.name(),
         name, tensor->ne[0], ggml_nrows(tensor), n_in, n_out);
  }
  const auto to_float = ggml_get_type_traits(tensor->type)->to_float;
  if (!to_float && tensor->type != GGML_TYPE_F32) {
    Fail(ErrorCode::kUnsupported, "{}: tensor {} is of type {}, which cannot be turned into floats",
         file.name(), name, ggml_type_name(tensor->type));
  }
  const auto bytes = file.TensorBytes(*tensor);
  const size_t row_bytes = ggml_row_size(tensor->type, n_in);
  const auto cols = static_cast<size_t>(n_in);
  std::vector<float> rows(static_cast<size_t>(std::min(kWeightRows, n_out)) * cols);
  for (int64_t first = 0; first < n_out; first += kWeightRows) {
    const auto n = static_cast<size_t>(std::min(kWeightRows, n_out - first));
    for (size_t i = 0; i < n; ++i) {
      const std::byte* from = bytes.data() + (static_cast<size_t>(first) + i) * row_bytes;
      if (to_float) {
        to_float(from, &rows[i * cols], n_in);
      } else {
        std::memcpy(&rows[i * cols], from, row_bytes);
      }
    }
    visit(first, {rows.data(), n, cols, cols});
  }
  file.Release(bytes);
}

}  // namespace pith
