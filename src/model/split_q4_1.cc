#include "model/split_q4_1.h"

#include <algorithm>
#include <cstring>

namespace pith {
namespace {

// As GGUF defines them: scale, then 16 bytes of which the low halves come first.
struct BlockQ40 {
  ggml_fp16_t d;
  uint8_t q[kQ4BlockWeights / 2];
};
struct BlockQ41 {
  ggml_fp16_t d;
  ggml_fp16_t m;
  uint8_t q[kQ4BlockWeights / 2];
};
static_assert(sizeof(BlockQ40) == 18 && sizeof(BlockQ41) == 20);

}  // namespace

void SplitQ41(std::span<const std::byte> q4_1, int64_t n_in, std::span<std::byte> q4_0,
              std::span<ggml_fp16_t> rest) {
  const size_t n_blocks = static_cast<size_t>(n_in / kQ4BlockWeights);  // of a row
  std::fill(rest.begin(), rest.end(), ggml_fp16_t{0});
  for (size_t i = 0; i < q4_1.size() / sizeof(BlockQ41); ++i) {
    BlockQ41 from;
    BlockQ40 to;
    std::memcpy(&from, q4_1.data() + i * sizeof(from), sizeof(from));
    to.d = from.d;
    std::memcpy(to.q, from.q, sizeof(to.q));
    std::memcpy(q4_0.data() + i * sizeof(to), &to, sizeof(to));
    const size_t row = i / n_blocks;
    rest[(row / kRestPanel * n_blocks + i % n_blocks) * kRestPanel + row % kRestPanel] =
        ggml_fp32_to_fp16(ggml_fp16_to_fp32(from.m) + 8.0f * ggml_fp16_to_fp32(from.d));
  }
}

}  // namespace pith
