// Half-precision rows, in the layouts of layout.h.
#pragma once

#include "cache/codec.h"
#include "cache/layout.h"

namespace pith {

// Blocks of 32 entries, dimension-major: k[block][head_dim][32].
class F16KeyCodec : public Codec {
 public:
  CodecId id() const override { return CodecId::kF16; }
  size_t PageBytes(int head_dim) const override;
  void Encode(MatrixView<const float> rows, int slot, std::byte* part) const override;
  void Decode(const std::byte* part, int slot, int head_dim, float* row) const override;
  void Move(const std::byte* from, int from_slot, std::byte* to, int to_slot,
            int head_dim) const override;
};

// Entry-major: v[64][head_dim].
class F16ValueCodec : public Codec {
 public:
  CodecId id() const override { return CodecId::kF16; }
  size_t PageBytes(int head_dim) const override;
  void Encode(MatrixView<const float> rows, int slot, std::byte* part) const override;
  void Decode(const std::byte* part, int slot, int head_dim, float* row) const override;
  void Move(const std::byte* from, int from_slot, std::byte* to, int to_slot,
            int head_dim) const override;
};

}  // namespace pith
