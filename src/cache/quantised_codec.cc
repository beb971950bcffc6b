#include "cache/quantised_codec.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>

#include <ggml.h>

#include "base/fail.h"
#include "cache/hadamard.h"

namespace pith {
namespace {

constexpr int kMaxHeadDim = 256;
constexpr F16 kNan = 0x7e00;
constexpr uint32_t kSize = 0x7fffffff;  // of a float, without its sign

// A block of dimensions as integers.
struct Block {
  F16 scale = 0;
  std::array<int32_t, kScaleDims> codes = {};
};

// The largest |x|; infinite or NaN if any element is. Compared as integers, which NaN does not
// escape.
float LargestSize(const float* x, int n) {
  uint32_t largest = 0;
  for (int i = 0; i < n; ++i) largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & kSize);
  return std::bit_cast<float>(largest);
}

// To the nearest integer, ties to even, for |x| < 2^22.
int32_t Round(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return std::bit_cast<int32_t>(x + kMagic) - std::bit_cast<int32_t>(kMagic);
}

bool IsFinite(F16 x) { return (x & 0x7c00) != 0x7c00; }

Block EncodeQ8(const float* x, int n) {
  const float wanted = LargestSize(x, n) / 127.0f;
  Block block;
  block.scale = ggml_fp32_to_fp16(wanted);
  if (ggml_fp16_to_fp32(block.scale) < wanted) ++block.scale;
  if (!IsFinite(block.scale)) {
    block.scale = kNan;
  } else if (block.scale != 0) {
    const float inverse = 1.0f / ggml_fp16_to_fp32(block.scale);
    for (int i = 0; i < n; ++i) block.codes[i] = Round(x[i] * inverse);
  }
  return block;
}

Block EncodeQ4(const float* x, int n) {
  const float largest = LargestSize(x, n);
  Block block;
  // Below this the scale would be zero, and so are the rows.
  if (largest < std::ldexp(1.0f, -22)) return block;
  if (!std::isfinite(largest)) {
    block.scale = kNan;
    return block;
  }
  const float signed_largest =
      *std::max_element(x, x + n, [](float a, float b) { return std::abs(a) < std::abs(b); });
  const float inverse = -8.0f / signed_largest;
  float products = 0;
  float squares = 0;
  for (int i = 0; i < n; ++i) {
    block.codes[i] = std::min(Round(x[i] * inverse), 7);
    const auto code = static_cast<float>(block.codes[i]);
    products += x[i] * code;
    squares += code * code;
  }
  block.scale = ggml_fp32_to_fp16(products / squares);
  if (!IsFinite(block.scale)) block.scale = kNan;
  return block;
}

}  // namespace

bool QuantisedCodec::Stores(int head_dim) {
  return head_dim > 0 && head_dim % 8 == 0 && head_dim <= kMaxHeadDim;
}

QuantisedCodec::QuantisedCodec(CodecId id, PagePart part, int head_dim, const KeyFrames* frames)
    : layout_{id, part, head_dim} {
  if (!Stores(head_dim)) {
    Fail(ErrorCode::kInvalidArgument,
         "The codec {} stores rows of a multiple of 8 dimensions up to {}; this model's have {}.",
         QuantisedCodec::name(), kMaxHeadDim, head_dim);
  }
  if (frames == nullptr) return;
  frames_ = *frames;
  std::vector<float>& centres = frames_.centres;
  std::ranges::transform(centres, frames_.spreads, centres.begin(), std::divides<>());
  for (size_t i = 0; id == CodecId::kQ4 && i < centres.size(); i += head_dim) {
    Hadamard(&centres[i], head_dim);
  }
}

RowFormat QuantisedCodec::Format(int head) const {
  if (frames_.centres.empty()) return {.id = layout_.id};
  const size_t at = size_t{1} * head * layout_.head_dim;
  return {.id = layout_.id, .spread = &frames_.spreads[at], .centre = &frames_.centres[at]};
}

void QuantisedCodec::Encode(int head, MatrixView<const float> rows, int slot,
                            std::byte* part) const {
  const bool q4 = layout_.id == CodecId::kQ4;
  const int head_dim = layout_.head_dim;
  const RowFormat format = Format(head);
  const bool framed = format.centre != nullptr;
  std::array<float, kMaxHeadDim> row;
  for (size_t i = 0; i < rows.rows; ++i, ++slot) {
    std::copy_n(rows.row(i), head_dim, row.begin());
    for (int d = 0; framed && d < head_dim; ++d) row[d] /= format.spread[d];
    if (q4) Hadamard(row.data(), head_dim);
    for (int d = 0; framed && d < head_dim; ++d) row[d] -= format.centre[d];
    for (int begin = 0; begin < head_dim; begin += kScaleDims) {
      const int n = std::min(kScaleDims, head_dim - begin);
      const Block block = q4 ? EncodeQ4(&row[begin], n) : EncodeQ8(&row[begin], n);
      std::memcpy(part + layout_.Scale(slot, begin / kScaleDims), &block.scale, sizeof(F16));
      for (int d = 0; d < n; ++d) {
        const QuantisedLayout::Place place = layout_.Code(slot, begin + d);
        std::byte& byte = part[place.byte];
        const std::byte code{static_cast<uint8_t>(block.codes[d] + layout_.Zero())};
        byte = q4 ? (byte & ~(std::byte{0xf} << place.shift)) | code << place.shift : code;
      }
    }
  }
}

void QuantisedCodec::Decode(int head, const std::byte* part, int slot, float* row) const {
  const bool q4 = layout_.id == CodecId::kQ4;
  const RowFormat format = Format(head);
  const bool framed = format.centre != nullptr;
  for (int d = 0; d < layout_.head_dim; ++d) {
    F16 scale = 0;
    std::memcpy(&scale, part + layout_.Scale(slot, d / kScaleDims), sizeof scale);
    const QuantisedLayout::Place place = layout_.Code(slot, d);
    row[d] = ggml_fp16_to_fp32(scale) * static_cast<float>(layout_.CodeAt(part, place));
    if (framed) row[d] += format.centre[d];
  }
  if (q4) Hadamard(row, layout_.head_dim);
  for (int d = 0; framed && d < layout_.head_dim; ++d) row[d] *= format.spread[d];
}

void QuantisedCodec::Move(const std::byte* from, int from_slot, std::byte* to, int to_slot) const {
  for (int d = 0; d < layout_.head_dim; ++d) {
    to[layout_.Code(to_slot, d).byte] = from[layout_.Code(from_slot, d).byte];
  }
  for (int b = 0; b < ScaleCount(layout_.head_dim); ++b) {
    std::memcpy(to + layout_.Scale(to_slot, b), from + layout_.Scale(from_slot, b), sizeof(F16));
  }
}

}  // namespace pith
