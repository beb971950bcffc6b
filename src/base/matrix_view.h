// A strided, row-major view of someone else's matrix.
#pragma once

#include <cstddef>

namespace pith {

template <typename T>
struct MatrixView {
  T* data = nullptr;
  size_t rows = 0;
  size_t cols = 0;
  size_t stride = 0;  // elements from one row to the next, >= cols

  T* row(size_t i) const { return data + i * stride; }
  bool empty() const { return rows == 0; }
};

}  // namespace pith
