// Judging all that a cache holds, for scorers of whole layers.
#pragma once

#include "cache/cache.h"
#include "engine/query_memory.h"
#include "pith/model.h"
#include "pith/plan.h"
#include "scorers/scorer.h"

namespace pith {

// Gives every entry of the plan's layers the worth that `scorer`, one with Needs::whole_layers,
// finds after `n_read` tokens; those of worth +infinity are pinned and keep it. `queries` may be
// null where the scorer asks for none. Layers are shared by threads; each decodes one at a time: 8
// bytes for every dimension of its entries.
void JudgeLayers(const Scorer& scorer, const Model& model, const Plan& plan,
                 const QueryMemory* queries, int64_t n_read, int n_threads, Cache& cache);

}  // namespace pith
