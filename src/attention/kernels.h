// What the SIMD kernels take and give: raw pointers and plain structs, no policy.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/matrix_view.h"
#include "cache/layout.h"

namespace pith {

// Entries computed together: one page.
inline constexpr int kStepEntries = kPageEntries;
inline constexpr int kMaxHeadDim = 256;
// Rows of every row-wise buffer are allocated in multiples of this, the tallest register tile.
inline constexpr int kRowMultiple = 12;

constexpr int PaddedRows(int n_rows) {
  return (n_rows + kRowMultiple - 1) / kRowMultiple * kRowMultiple;
}
constexpr int PaddedDim(int head_dim) { return (head_dim + 31) / 32 * 32; }

// Softmax states of n_rows rows (see softmax_state.h), as the kernels keep them.
struct StateRows {
  float* max;      // [PaddedRows]
  float* sum;      // [PaddedRows]
  float* vectors;  // [PaddedRows, PaddedDim], 64-byte aligned
};

// The queries of one task against a run of entries of one tier of its KV head. A row is one query
// of one head: row = token * group + head.
struct Segment {
  std::byte* const* pages;
  size_t key_bytes;  // of a page: where its values begin
  size_t page_bytes;
  RowFormat keys;
  RowFormat values;
  int64_t begin;  // entries [begin, end); begin is a multiple of kBlockEntries
  int64_t end;
  int head_dim;
  int group;
  int n_tokens;
  const float* q;    // token t's rows are at q + t * q_stride, [group, head_dim]
  int64_t q_stride;  // floats
  float scale;       // of q.k, giving scores in units of log2
  // Token t sees the entries below first_visible + t * visible_step.
  int64_t first_visible;
  int visible_step;
  float* scratch;   // [ScratchFloats(head_dim, n_rows)], 64-byte aligned, contents do not matter
  StateRows state;  // written, not read
};

// The queries of one task of MaxProbability. Rows are head by head, so that a tile of rows belongs
// to one head: row = head * PaddedRows(n_tokens) + token.
struct JudgeSegment {
  std::byte* const* pages;
  int64_t begin;  // entries [begin, end) are judged, and seen by every query
  int64_t end;
  int64_t tail_begin;             // token t also sees entries [tail_begin, first_visible + t)
  int64_t first_visible;          // >= tail_begin
  MatrixView<const float> extra;  // [n_extra, head_dim], also seen by every query
  int head_dim;
  int group;
  int n_tokens;
  const float* q;             // token t's rows are at q + t * q_stride, [group, head_dim]
  int64_t q_stride;           // floats
  float scale;                // of q.k, giving scores in units of log2
  const float* log2_divisor;  // [n_tokens], or null for zeros
  float* scratch;             // [JudgeFloats(head_dim, group, n_tokens)], 64-byte aligned
  // Written, not read: entry i of a head is at max[head * max_stride + i - begin +
  // MaxOffset(begin)].
  float* max;          // [group, max_stride], 64-byte aligned
  int64_t max_stride;  // MaxStride(end - begin) or more, a multiple of kBlockEntries
};

struct Kernels {
  const char* level;
  // Reads f16 K and V straight into registers; best for few rows.
  void (*decode)(const Segment& segment);
  // The scores that decode makes, of hidden entries too, and no state: for each page of the run
  // rows [n_rows][kStepEntries]. At most decode_max_rows rows whose tables fit kTableFloats; null
  // where one lane cannot hold a pair of integers.
  void (*score)(const Segment& segment, float* scores);
  // Many rows: converts each page to f32 once and runs blocked matrix products, or multiplies what
  // is stored as integers as decode does, where that takes less time.
  void (*prefill)(const Segment& segment);
  // Over all queries, the largest log2 probability less log2_divisor of each judged entry. A query
  // whose normaliser or divisor is not finite, as of NaN anywhere, gives no entry anything.
  void (*judge)(const JudgeSegment& segment);
  int decode_max_rows;  // up to this many rows decode is the faster of the two, as measured
  // y[i] = 2^x[i] as the kernels compute it, x <= 0; n is a multiple of 64.
  void (*exp2)(const float* x, size_t n, float* y);
};

// Room for the tables of codes of few queries; what needs more is converted for few queries too.
inline constexpr size_t kTableFloats = size_t{64} << 10;

// Floats of scratch that either kernel needs.
constexpr size_t ScratchFloats(int head_dim, int n_rows) {
  return kTableFloats +
         size_t{1} * PaddedRows(n_rows) * (head_dim + kStepEntries + 16) +  // q, scores, factors
         size_t{kStepEntries} * (head_dim + PaddedDim(head_dim)) + 64;      // a page in f32
}

constexpr size_t JudgeFloats(int head_dim, int group, int n_tokens) {
  return size_t{1} * group * PaddedRows(n_tokens) * (head_dim + 3) +  // q, max, sum, normaliser
         size_t{kStepEntries} * (head_dim + kRowMultiple) + 64;       // a page in f32, scores
}
// Maxima are stored by whole blocks of entries.
constexpr int64_t MaxOffset(int64_t begin) { return begin % kBlockEntries; }
constexpr int64_t MaxStride(int64_t n_judged) {
  return (n_judged + 2 * kBlockEntries - 2) / kBlockEntries * kBlockEntries;
}

// Those of the current SIMD level.
const Kernels& CurrentKernels();

}  // namespace pith
