#include "cache/f16_codec.h"

#include <array>
#include <cstring>

#include <ggml-cpu.h>

namespace pith {
namespace {

constexpr int kMaxHeadDim = 256;

// The first element of an entry in a key part; the others follow at a stride of kBlockEntries.
size_t KeyOffset(int slot, int head_dim) {
  return size_t{1} * (slot / kBlockEntries) * head_dim * kBlockEntries + slot % kBlockEntries;
}

F16* Elements(std::byte* part) { return reinterpret_cast<F16*>(part); }
const F16* Elements(const std::byte* part) { return reinterpret_cast<const F16*>(part); }

}  // namespace

void F16KeyCodec::Encode(int, MatrixView<const float> rows, int slot, std::byte* part) const {
  std::array<F16, kMaxHeadDim> half;
  for (size_t i = 0; i < rows.rows; ++i) {
    ggml_cpu_fp32_to_fp16(rows.row(i), half.data(), head_dim_);
    F16* to = Elements(part) + KeyOffset(slot + static_cast<int>(i), head_dim_);
    for (int d = 0; d < head_dim_; ++d) to[d * kBlockEntries] = half[d];
  }
}

void F16KeyCodec::Decode(int, const std::byte* part, int slot, float* row) const {
  const F16* from = Elements(part) + KeyOffset(slot, head_dim_);
  for (int d = 0; d < head_dim_; ++d) row[d] = ggml_fp16_to_fp32(from[d * kBlockEntries]);
}

void F16KeyCodec::Move(const std::byte* from, int from_slot, std::byte* to, int to_slot) const {
  const F16* source = Elements(from) + KeyOffset(from_slot, head_dim_);
  F16* target = Elements(to) + KeyOffset(to_slot, head_dim_);
  for (int d = 0; d < head_dim_; ++d) target[d * kBlockEntries] = source[d * kBlockEntries];
}

void F16ValueCodec::Encode(int, MatrixView<const float> rows, int slot, std::byte* part) const {
  for (size_t i = 0; i < rows.rows; ++i) {
    ggml_cpu_fp32_to_fp16(rows.row(i), Elements(part) + (slot + i) * head_dim_, head_dim_);
  }
}

void F16ValueCodec::Decode(int, const std::byte* part, int slot, float* row) const {
  ggml_cpu_fp16_to_fp32(Elements(part) + size_t{1} * slot * head_dim_, row, head_dim_);
}

void F16ValueCodec::Move(const std::byte* from, int from_slot, std::byte* to, int to_slot) const {
  std::memcpy(Elements(to) + size_t{1} * to_slot * head_dim_,
              Elements(from) + size_t{1} * from_slot * head_dim_, head_dim_ * sizeof(F16));
}

}  // namespace pith
