// How keys that are codes of a product quantiser lie in a page. Shared by the codec, which writes,
// and the kernels, which read.
#pragma once

#include <cstddef>

#include "cache/layout.h"

namespace pith {

// Two blocks of 32 entries, each:
//   pq8: [n_subspaces][32] codes of one byte
//   pq4: [n_subspaces/2][32] bytes, subspace 2i in the low four bits, 2i + 1 in the high ones
// so that one subspace's codes of a whole block are looked up together.
constexpr size_t PqBlockBytes(const RowFormat& format) {
  return size_t{kBlockEntries} * format.n_subspaces / (format.id == CodecId::kPq8 ? 1 : 2);
}
constexpr int PqCentroids(CodecId id) { return id == CodecId::kPq8 ? 256 : 16; }

struct PqPlace {
  size_t byte;  // from the beginning of a page's keys
  int shift;
};
constexpr PqPlace PqCode(const RowFormat& format, int slot, int subspace) {
  const bool pq8 = format.id == CodecId::kPq8;
  const int row = pq8 ? subspace : subspace / 2;
  return {slot / kBlockEntries * PqBlockBytes(format) + size_t{kBlockEntries} * row +
              slot % kBlockEntries,
          pq8 ? 0 : subspace % 2 * 4};
}

// A head's codebook, as RowFormat has it: map f32 [head_dim][head_dim], then centroids f32
// [n_subspaces][head_dim/n_subspaces][n_centroids]. Dimension d of a key is map[d] . y, where y is
// the centroids of its codes, one after another: q . key = y . q' with q' = sum over d of q[d]
// map[d], a sum over subspaces of what depends on the query and the code alone.
constexpr size_t PqCodebookFloats(CodecId id, int head_dim) {
  return size_t{1} * head_dim * (head_dim + PqCentroids(id));
}

}  // namespace pith
