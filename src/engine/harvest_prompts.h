// The prompts that a surrogate is trained on.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pith/calibration.h"
#include "pith/text.h"

namespace pith {

enum class Split { kTrain, kValidation, kHeldOut };
const char* SplitName(Split split);

struct HarvestPrompt {
  Split split = Split::kTrain;
  size_t document = 0;             // index of the text it is cut from
  std::vector<Token> tokens;       // BOS, where the model expects one, first
  std::vector<int32_t> positions;  // sampled, ascending, none of them a sink
  int n_facts = 0;                 // planted
};

// The same for the same texts, tokenizer and options. First those for training. Throws
// Error(kInvalidArgument) for options out of range or fewer than three documents of min_tokens.
std::vector<HarvestPrompt> MakeHarvestPrompts(const Tokenizer& tokenizer,
                                              std::span<const std::string> texts,
                                              const KvzapOptions& options, int n_sinks);

}  // namespace pith
