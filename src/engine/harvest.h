// Samples for a surrogate: hidden states and log KVzip+ scores of prompts, one file each.
#pragma once

#include <span>
#include <string>

#include "calibrate/kvzap_train.h"
#include "engine/harvest_prompts.h"
#include "pith/model.h"
#include "pith/plan.h"

namespace pith {

// Reads and judges the prompts whose shard is not in the folder yet, one at a time, and opens all.
// Beside the shards lies manifest.json, which says what the prompts are. Throws Error(kMismatch)
// for a folder that holds another harvest, Error(kIo), Error(kCancelled).
KvzapSplits Harvest(const Model& model, std::span<const HarvestPrompt> prompts,
                    const KvzapOptions& options, const Progress& progress);

// The oracle whose scores are harvested: nothing is evicted.
Plan HarvestPlan();

}  // namespace pith
