// Half-precision rows, in the layouts of layout.h.
#pragma once

#include "cache/codec.h"
#include "cache/layout.h"

namespace pith {

// Blocks of 32 entries, dimension-major: k[block][head_dim][32].
class F16KeyCodec : public Codec {
 public:
  explicit F16KeyCodec(int head_dim) : head_dim_(head_dim) {}
  std::string_view name() const override { return "f16"; }
  RowFormat Format(int) const override { return {}; }
  size_t PageBytes() const override { return F16KeyBytes(head_dim_); }
  void Encode(int head, MatrixView<const float> rows, int slot, std::byte* part) const override;
  void Decode(int head, const std::byte* part, int slot, float* row) const override;
  void Move(const std::byte* from, int from_slot, std::byte* to, int to_slot) const override;

 private:
  int head_dim_;
};

// Entry-major: v[64][head_dim].
class F16ValueCodec : public Codec {
 public:
  explicit F16ValueCodec(int head_dim) : head_dim_(head_dim) {}
  std::string_view name() const override { return "f16"; }
  RowFormat Format(int) const override { return {}; }
  size_t PageBytes() const override { return F16KeyBytes(head_dim_); }
  void Encode(int head, MatrixView<const float> rows, int slot, std::byte* part) const override;
  void Decode(int head, const std::byte* part, int slot, float* row) const override;
  void Move(const std::byte* from, int from_slot, std::byte* to, int to_slot) const override;

 private:
  int head_dim_;
};

}  // namespace pith
