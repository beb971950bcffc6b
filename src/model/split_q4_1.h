// q4_1 as q4_0 and a rest. A q4_1 block of 32 weights is d*q + m, a q4_0 block d*(q - 8), so
//   W x  =  Q x + R s,   Q: q4_0 with the same d and q,  R = m + 8d per block,  s: sums of x per
//   block
// is the same product. It pays because ggml's fast CPU kernels take q4_0 and not q4_1.
#pragma once

#include <cstddef>
#include <span>

namespace pith {

inline constexpr int kQ4BlockWeights = 32;

// `q4_1`: blocks as GGUF stores them. `q4_0` gets as many blocks, `rest` one float for each.
void SplitQ41(std::span<const std::byte> q4_1, std::span<std::byte> q4_0, std::span<float> rest);

}  // namespace pith
