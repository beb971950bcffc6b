// Depth without reading: made-up entries, for measurements.
#pragma once

#include <cstdint>

#include "pith/session.h"

namespace pith {

// Leaves `session` as if it had read `n_tokens` more tokens, without running the model. Entries
// enter the cache in chunks and are evicted after each as in Session::Read. Elements of keys and
// values are standard normal; worths have the distribution that the surrogate of the plan states,
// or are standard normal, and some heads have higher ones than others. The same seed gives the same
// entries. There are no logits until something is read. Throws Error(kInvalidArgument) when the
// context would overflow, Error(kMemoryLimit).
void ReadSynthetic(Session& session, int64_t n_tokens, uint64_t seed);

}  // namespace pith
