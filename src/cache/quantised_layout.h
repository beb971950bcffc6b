// How rows of 8- and 4-bit integers lie in a page. Shared by the codec, which writes, and the
// kernels, which read.
#pragma once

#include <cstddef>

#include "cache/layout.h"

namespace pith {

// A row is scale * code in every block of kScaleDims dimensions, one f16 scale each; the last block
// has what is left. Scales lie behind the codes they belong to.
//   q8 keys: two blocks of 32 entries, each: int8 [head_dim/2][32][2], then f16 [n_scales][32]
//   q8 values: int8 [32 pairs of entries][head_dim][2], then f16 [n_scales][64]
//   q4 keys: two blocks of 32 entries, each: [head_dim/8][32][4] bytes, then f16 [n_scales][32];
//     byte j of step i holds dimension 8i + j in its low and 8i + 4 + j in its high four bits
//   q4 values: uint16 [32 pairs of entries][n_scales][8][2], then f16 [n_scales][64]; bits 4p to
//     4p + 3 of word j of block b hold dimension 32b + 8p + j; the last block is a whole one
// Pairs of dimensions of a key, and pairs of entries of values, stand together because one
// instruction multiplies pairs of integers and adds the two products. No two entries share a byte.
// Codes of q4 are stored with kQ4Zero added; its rows are rotated (hadamard.h).
inline constexpr int kScaleDims = 32;
inline constexpr int kQ4Zero = 8;

constexpr int ScaleCount(int head_dim) { return (head_dim + kScaleDims - 1) / kScaleDims; }

enum class PagePart : uint8_t { kKeys, kValues };

// Bytes of codes: of a block of 32 entries for keys, of all 64 for values.
constexpr size_t CodeBytes(CodecId id, PagePart part, int head_dim) {
  if (part == PagePart::kKeys)
    return size_t{kBlockEntries} * head_dim / (id == CodecId::kQ8 ? 1 : 2);
  return id == CodecId::kQ8 ? size_t{kPageEntries} * head_dim
                            : size_t{kPageEntries} * ScaleCount(head_dim) * kScaleDims / 2;
}
constexpr size_t KeyBlockBytes(CodecId id, int head_dim) {
  return CodeBytes(id, PagePart::kKeys, head_dim) +
         size_t{1} * ScaleCount(head_dim) * kBlockEntries * sizeof(F16);
}

// Where things are, from the beginning of a page's part, in bytes.
struct QuantisedLayout {
  CodecId id;  // kQ8 or kQ4
  PagePart part;
  int head_dim;

  struct Place {
    size_t byte;
    int shift;  // of q4: the bits of the byte from here on
  };

  constexpr size_t PageBytes() const {
    return part == PagePart::kKeys
               ? 2 * KeyBlockBytes(id, head_dim)
               : CodeBytes(id, part, head_dim) +
                     size_t{1} * ScaleCount(head_dim) * kPageEntries * sizeof(F16);
  }
  constexpr Place Code(int slot, int dim) const {
    const int block = slot / kBlockEntries, lane = slot % kBlockEntries;
    if (part == PagePart::kKeys) {
      const size_t begin = block * KeyBlockBytes(id, head_dim);
      if (id == CodecId::kQ8) return {begin + (dim / 2 * kBlockEntries + lane) * 2 + dim % 2, 0};
      return {begin + (dim / 8 * kBlockEntries + lane) * 4 + dim % 4, dim % 8 / 4 * 4};
    }
    if (id == CodecId::kQ8) return {size_t{2} * (slot / 2 * head_dim + dim) + slot % 2, 0};
    const int word = (slot / 2 * ScaleCount(head_dim) + dim / kScaleDims) * 8 + dim % 8;
    const int plane = dim % kScaleDims / 8;
    return {size_t{4} * word + slot % 2 * 2 + plane / 2, plane % 2 * 4};
  }
  constexpr size_t Scale(int slot, int scale_block) const {
    const size_t codes = CodeBytes(id, part, head_dim);
    if (part == PagePart::kValues) {
      return codes + (size_t{1} * scale_block * kPageEntries + slot) * sizeof(F16);
    }
    return slot / kBlockEntries * KeyBlockBytes(id, head_dim) + codes +
           (size_t{1} * scale_block * kBlockEntries + slot % kBlockEntries) * sizeof(F16);
  }
};

}  // namespace pith
