// Scratch memory of whole cache lines.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

#include "cache/layout.h"

namespace pith {

struct AlignedDelete {
  void operator()(float* p) const { ::operator delete[](p, std::align_val_t{kPageAlignment}); }
};
using AlignedFloats = std::unique_ptr<float[], AlignedDelete>;

// Not initialised; aligned to kPageAlignment.
inline AlignedFloats AllocateFloats(size_t n) {
  return AlignedFloats(
      static_cast<float*>(::operator new[](n * sizeof(float), std::align_val_t{kPageAlignment})));
}

constexpr size_t WholeLines(size_t n_floats) {
  constexpr size_t kFloatsPerLine = kPageAlignment / sizeof(float);
  return (n_floats + kFloatsPerLine - 1) / kFloatsPerLine * kFloatsPerLine;
}

}  // namespace pith
