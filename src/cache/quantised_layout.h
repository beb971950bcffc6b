// How rows of 8- and 4-bit integers lie in a page. Shared by the codec, which writes, and the
// kernels, which read.
#pragma once

#include <cstddef>

#include "cache/layout.h"

namespace pith {

// A row is scale * code in every block of kScaleDims dimensions, one f16 scale each; the last block
// has what is left. Scales lie behind the codes they belong to.
//   q8 keys: two blocks of 32 entries, each: [head_dim/4][32][4] bytes, then f16 [n_scales][32]
//   q8 values: int8 [32 pairs of entries][head_dim][2], then f16 [n_scales][64]
//   q4 keys: two blocks of 32 entries, each: [head_dim/4][32][2] bytes, then f16 [n_scales][32];
//     byte j of step i holds dimension 4i + j in its low and 4i + 2 + j in its high four bits
//   q4 values: [n_scales][32 pairs of entries][16][2] bytes, then f16 [n_scales][64]; byte j of
//     block b holds dimension 32b + j in its low and 32b + 16 + j in its high four bits; the last
//     block is a whole one
// A pair of entries are i and i + 8 of sixteen: PairOf. Dimensions of a key, and pairs of entries
// of values, stand together because one instruction multiplies neighbouring integers and adds the
// products. No two entries share a byte. Keys are stored with kQ8Zero or kQ4Zero added, values of
// q4 too; rows of q4 are rotated (hadamard.h).
inline constexpr int kScaleDims = 32;
inline constexpr int kQ8Zero = 128;
inline constexpr int kQ4Zero = 8;

constexpr int ScaleCount(int head_dim) { return (head_dim + kScaleDims - 1) / kScaleDims; }

// Which pair an entry belongs to, and which of the two it is.
constexpr int PairOf(int slot) { return slot / 16 * 8 + slot % 8; }
constexpr int InPair(int slot) { return slot % 16 / 8; }

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
  // What is added to a code where it is stored.
  constexpr int Zero() const {
    if (id == CodecId::kQ4) return kQ4Zero;
    return part == PagePart::kKeys ? kQ8Zero : 0;
  }
  constexpr Place Code(int slot, int dim) const {
    const int block = slot / kBlockEntries, lane = slot % kBlockEntries;
    if (part == PagePart::kKeys) {
      const size_t begin = block * KeyBlockBytes(id, head_dim);
      const int step = dim / 4 * kBlockEntries + lane;
      if (id == CodecId::kQ8) return {begin + step * 4 + dim % 4, 0};
      return {begin + step * 2 + dim % 2, dim % 4 / 2 * 4};
    }
    const int pair = PairOf(slot);
    if (id == CodecId::kQ8) return {size_t{2} * (pair * head_dim + dim) + InPair(slot), 0};
    const int word = (dim / kScaleDims * kPageEntries / 2 + pair) * 16 + dim % 16;
    return {size_t{2} * word + InPair(slot), dim % kScaleDims / 16 * 4};
  }
  int CodeAt(const std::byte* from, const Place& place) const {
    const auto byte = static_cast<uint8_t>(from[place.byte]);
    if (id == CodecId::kQ4) return (byte >> place.shift & 0xf) - kQ4Zero;
    return part == PagePart::kKeys ? byte - kQ8Zero : static_cast<int8_t>(byte);
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
