// Mean and covariance of queries: from a sample, and as safetensors (docs/formats.md).
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/safetensors.h"
#include "calibrate/query_svd.h"
#include "model/rope.h"
#include "pith/calibration.h"

namespace pith {

// Of the sampled queries, turned back to before RoPE. The corpus is sequences of
// `sequence_tokens`, whose first `n_sinks` tokens, of which a head asks something else than of all
// others, are left out. Throws Error(kInvalidArgument) where nothing is left or a query is no
// number. `in_full`: the whole covariance, not only the variances.
QueryStatistics MeasureQueries(const QuerySampler& sampler, const Rope& rope, int sequence_tokens,
                               int n_sinks, bool rope_interleaved, bool in_full);

// Nothing where there is neither tensor. Throws Error(kFormat).
std::optional<QueryStatistics> ReadQueryStatistics(const SafeTensors& tensors);

// `statistics` must outlive the use of `tensors`.
void AddQueryStatistics(const QueryStatistics& statistics,
                        std::map<std::string, SafeTensor, std::less<>>& tensors);

}  // namespace pith
