// Keys as coefficients on directions of their head (low_rank.h), which are stored as rows of
// integers (quantised_codec.h) of fewer dimensions.
#pragma once

#include <string>
#include <vector>

#include "cache/low_rank.h"
#include "cache/quantised_codec.h"

namespace pith {

class LowRankKeyCodec : public Codec {
 public:
  // bases [n_heads]: of layer * n_kv_heads + kv_head, all of the shape's rank.
  LowRankKeyCodec(const LowRankShape& shape, std::vector<LowRankBasis> bases);
  std::string_view name() const override { return name_; }
  RowFormat Format(int head) const override;
  size_t PageBytes() const override { return coefficients_.PageBytes(); }
  void Encode(int head, MatrixView<const float> rows, int slot, std::byte* part) const override;
  void Decode(int head, const std::byte* part, int slot, float* row) const override;
  void Move(const std::byte* from, int from_slot, std::byte* to, int to_slot) const override {
    coefficients_.Move(from, from_slot, to, to_slot);
  }
  size_t CodebookBytes() const override;

 private:
  int rank_;
  std::vector<LowRankBasis> bases_;
  QuantisedCodec coefficients_;
  std::string name_;
};

}  // namespace pith
