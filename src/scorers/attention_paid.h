// What a few queries pay for each entry that is kept.
#pragma once

#include <cstdint>
#include <span>

#include "base/matrix_view.h"
#include "scorers/scorer.h"

namespace pith {

// paid[i] += the sum over `queries` [n, head_dim] (one query head, after RoPE) of the probability
// that each gives entry i: softmax over the entries at its own position or before. A query before
// all of them pays nothing. paid: [n entries].
void AddAttentionPaid(const Entries& entries, MatrixView<const float> queries,
                      std::span<const int32_t> query_positions, std::span<double> paid);

}  // namespace pith
