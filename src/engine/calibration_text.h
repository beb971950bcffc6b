// The text that a calibration reads.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "pith/model.h"

namespace pith {

// Sequences of equal length, spread evenly over all texts, each with BOS where the model has one.
// Throws Error(kInvalidArgument) for sizes that make no sense or that the texts do not have.
std::vector<std::vector<Token>> CutSequences(const Model& model, std::span<const std::string> texts,
                                             int n_sequences, int sequence_tokens);

}  // namespace pith
