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

size_t F16KeyCodec::PageBytes(int head_dim) const { return F16KeyBytes(head_dim); }

void F16KeyCodec::Encode(MatrixView<const float> rows, int slot, std::byte* part) const {
  std::array<F16, kMaxHeadDim> half;
  const int head_dim = static_cast<int>(rows.cols);
  for (size_t i = 0; i < rows.rows; ++i) {
    ggml_cpu_fp32_to_fp16(rows.row(i), half.data(), head_dim);
    F16* to = Elements(part) + KeyOffset(slot + static_cast<int>(i), head_dim);
    for (int d = 0; d < head_dim; ++d) to[d * kBlockEntries] = half[d];
  }
}

void F16KeyCodec::Decode(const std::byte* part, int slot, int head_dim, float* row) const {
  const F16* from = Elements(part) + KeyOffset(slot, head_dim);
  for (int d = 0; d < head_dim; ++d) row[d] = ggml_fp16_to_fp32(from[d * kBlockEntries]);
}

void F16KeyCodec::Move(const std::byte* from, int from_slot, std::byte* to, int to_slot,
                       int head_dim) const {
  const F16* source = Elements(from) + KeyOffset(from_slot, head_dim);
  F16* target = Elements(to) + KeyOffset(to_slot, head_dim);
  for (int d = 0; d < head_dim; ++d) target[d * kBlockEntries] = source[d * kBlockEntries];
}

size_t F16ValueCodec::PageBytes(int head_dim) const {
  return size_t{kPageEntries} * head_dim * sizeof(F16);
}

void F16ValueCodec::Encode(MatrixView<const float> rows, int slot, std::byte* part) const {
  const size_t head_dim = rows.cols;
  for (size_t i = 0; i < rows.rows; ++i) {
    ggml_cpu_fp32_to_fp16(rows.row(i), Elements(part) + (slot + i) * head_dim,
                          static_cast<int64_t>(head_dim));
  }
}

void F16ValueCodec::Decode(const std::byte* part, int slot, int head_dim, float* row) const {
  ggml_cpu_fp16_to_fp32(Elements(part) + size_t{1} * slot * head_dim, row, head_dim);
}

void F16ValueCodec::Move(const std::byte* from, int from_slot, std::byte* to, int to_slot,
                         int head_dim) const {
  std::memcpy(Elements(to) + size_t{1} * to_slot * head_dim,
              Elements(from) + size_t{1} * from_slot * head_dim, head_dim * sizeof(F16));
}

}  // namespace pith
