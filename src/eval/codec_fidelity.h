// What codecs do to attention over keys, layer by layer, with the queries of a text (LOOKAT, arXiv
// 2601.10155, section 4, on every layer).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "eval/branches.h"
#include "eval/key_fidelity.h"
#include "eval/text_pieces.h"

namespace pith {

// One piece with one codec.
struct CodecOutcome : ReadingStats {
  double key_bytes = 0;
  // Means over the group's query heads and the queries. [n_layers][n_kv_heads]
  std::vector<std::vector<KeyFidelity>> per_head;
  // Of the piece, for whoever reads the result.
  int document = 0;
  int64_t begin = 0;
};

// Reads the piece once with the full cache; the queries of its last `n_queries` tokens look at the
// entries up to their own. For each plan, keys but the first plan.sinks and the last plan.window
// that a query sees are replaced by what the plan's key codec makes of them (key_coding.h). Values
// stay. 1 <= n_queries <= tokens of the piece. One outcome per plan. Throws what Session and
// MakeKeyCoding throw.
std::vector<CodecOutcome> RunCodecs(const Model& model, const TextPiece& piece,
                                    std::span<const Plan> plans, int n_queries,
                                    const SessionOptions& options);

}  // namespace pith
