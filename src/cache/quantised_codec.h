// Rows of 8- or 4-bit integers, one f16 scale for 32 of them, laid out as quantised_layout.h says.
#pragma once

#include "cache/codec.h"
#include "cache/quantised_layout.h"

namespace pith {

// q8: code = x / scale rounded to nearest, ties to even; scale is the least f16 that is at least
//   max |x| / 127 over its 32 dimensions. An element errs by at most scale / 2.
// q4: of the rotated row, the element largest in size becomes -8, the others x / scale rounded and
//   at most 7, and scale is then made the one of least squares for these codes. In the mean of
//   Gaussian rows this leaves a quarter less squared error than scale = max / 7.
// Zeros come back as zeros, in frames what is the centre as that. Nothing wrong becomes a number:
// 32 dimensions (of q4, the dimensions rotated together) with a NaN or an infinity among them, or
// too large for a scale (5.2e5 for q4, 8.3e6 for q8), come back as NaN, and so does attention over
// them if they weigh anything.
class QuantisedCodec : public Codec {
 public:
  // Rows of a multiple of 8 dimensions, up to 256.
  static bool Stores(int head_dim);
  // id: kQ8 or kQ4. Rows are coded in `frames`, copied, where these are given and not empty: x for
  // a row centre + spread * x. Throws Error(kInvalidArgument) for rows that it does not store.
  QuantisedCodec(CodecId id, PagePart part, int head_dim, const KeyFrames* frames = nullptr);
  std::string_view name() const override { return layout_.id == CodecId::kQ8 ? "q8" : "q4"; }
  RowFormat Format(int head) const override;
  size_t PageBytes() const override { return layout_.PageBytes(); }
  void Encode(int head, MatrixView<const float> rows, int slot, std::byte* part) const override;
  void Decode(int head, const std::byte* part, int slot, float* row) const override;
  void Move(const std::byte* from, int from_slot, std::byte* to, int to_slot) const override;

 private:
  QuantisedLayout layout_;
  KeyFrames frames_;  // centres divided by spreads, and rotated if the rows are
};

}  // namespace pith
