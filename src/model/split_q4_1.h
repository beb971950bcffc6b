// q4_1 as q4_0 and a rest. A q4_1 block of 32 weights is d*q + m, a q4_0 block d*(q - 8), so
//   W x  =  Q x + R s,   Q: q4_0 with the same d and q,  R = m + 8d per block,  s: sums of x per
//   block
// is the same product. It pays because ggml's fast CPU kernels take q4_0 and not q4_1. R, about the
// middle of a block's weights, is rounded to f16, as the file's m was.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <ggml.h>

#include "base/matrix_view.h"

namespace pith {

inline constexpr int kQ4BlockWeights = 32;

// R lies in panels of this many rows of W, block by block: [panel][n_in / 32][kRestPanel].
inline constexpr int kRestPanel = 16;

constexpr int64_t RestElements(int64_t n_in, int64_t n_out) {
  return (n_out + kRestPanel - 1) / kRestPanel * kRestPanel * (n_in / kQ4BlockWeights);
}

// `q4_1`: rows of n_in weights, blocks as GGUF stores them. `q4_0` gets as many blocks, `rest`
// [RestElements(n_in, rows)] zeros behind the last row.
void SplitQ41(std::span<const std::byte> q4_1, int64_t n_in, std::span<std::byte> q4_0,
              std::span<ggml_fp16_t> rest);

// y += R s. x [n_tokens, n_in], y [n_tokens, n_out]. Every thread of n_threads calls it once and
// does its share; no two write the same place.
void AddRestProduct(const ggml_fp16_t* rest, MatrixView<const float> x, MatrixView<float> y,
                    int thread, int n_threads);

}  // namespace pith
