// Rows of a weight matrix in floats, whatever layout the weights were loaded into.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/gguf_file.h"
#include "base/matrix_view.h"

namespace pith {

// Rows at a time, so that no whole matrix is laid out in floats.
inline constexpr int64_t kWeightRows = 128;

// visit(first, rows) for all rows of a matrix [n_out, n_in] of the file, at most kWeightRows at a
// time; what was read is not kept in memory. Throws Error(kFormat) for a missing or misshapen
// tensor, Error(kUnsupported) for a type that ggml cannot turn into floats.
void ForEachWeightRows(
    const GgufFile& file, const std::string& name, int64_t n_in, int64_t n_out,
    const std::function<void(int64_t first, MatrixView<const float> rows)>& visit);

}  // namespace pith
