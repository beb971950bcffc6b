#include "model/split_q4_1.h"

#include <ggml.h>

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

void SplitQ41(std::span<const std::byte> q4_1, std::span<std::byte> q4_0, std::span<float> rest) {
  for (size_t i = 0; i < rest.size(); ++i) {
    BlockQ41 from;
    BlockQ40 to;
    std::memcpy(&from, q4_1.data() + i * sizeof(from), sizeof(from));
    to.d = from.d;
    std::memcpy(to.q, from.q, sizeof(to.q));
    std::memcpy(q4_0.data() + i * sizeof(to), &to, sizeof(to));
    rest[i] = ggml_fp16_to_fp32(from.m) + 8.0f * ggml_fp16_to_fp32(from.d);
  }
}

}  // namespace pith
