#include "cache/hadamard.h"

#include <cmath>

namespace pith {

void Hadamard(float* row, int n) {
  const int dims = HadamardDims(n);
  for (int half = 1; half < dims; half *= 2) {
    for (int begin = 0; begin < n; begin += 2 * half) {
      float* a = row + begin;
      float* b = a + half;
      for (int i = 0; i < half; ++i) {
        const float sum = a[i] + b[i];
        b[i] = a[i] - b[i];
        a[i] = sum;
      }
    }
  }
  const float norm = 1.0f / std::sqrt(static_cast<float>(dims));
  for (int i = 0; i < n; ++i) row[i] *= norm;
}

}  // namespace pith
