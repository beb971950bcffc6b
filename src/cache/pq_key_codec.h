// Keys as codes of a product quantiser, with a codebook for every head (LOOKAT, arXiv 2601.10155,
// section 3), laid out as pq_layout.h says.
#pragma once

#include <string>
#include <vector>

#include "cache/codec.h"
#include "cache/pq_codebook.h"
#include "cache/pq_layout.h"

namespace pith {

// A key becomes the nearest centroids of its head's codebook. One that is not finite has none, and
// Encode throws Error(kInvalidArgument) for it.
class PqKeyCodec : public Codec {
 public:
  // codebooks [n_heads]: of layer * n_kv_heads + kv_head, all of one shape.
  explicit PqKeyCodec(std::vector<PqCodebook> codebooks);
  std::string_view name() const override { return name_; }
  RowFormat Format(int head) const override;
  size_t PageBytes() const override { return 2 * PqBlockBytes(Format(0)); }
  void Encode(int head, MatrixView<const float> rows, int slot, std::byte* part) const override;
  void Decode(int head, const std::byte* part, int slot, float* row) const override;
  void Move(const std::byte* from, int from_slot, std::byte* to, int to_slot) const override;
  size_t CodebookBytes() const override;

 private:
  std::vector<PqCodebook> codebooks_;
  std::string name_;
};

}  // namespace pith
