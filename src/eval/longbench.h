// LongBench (arXiv 2308.14508): questions about long texts from files that the user has, with the
// prompts, lengths and scores of its published scripts. The English and the code datasets.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/asked.h"

namespace pith {

struct LongBenchSample {
  std::string input;    // the question, may be empty
  std::string context;  // the text
  std::vector<std::string> answers;
  std::vector<std::string> classes;  // of a classification, else empty
};

struct LongBenchSet {
  std::string dataset;  // "qasper"
  std::vector<LongBenchSample> samples;
};

// JSON lines, each with `dataset` ("_e" after it is left out), `input`, `context`, `answers`,
// `all_classes` (may be null). What follows of a dataset that `sets` has is added to it.
// Throws Error(kFormat) that begins with `name`, for a dataset that is not known as well.
void ReadLongBench(std::string_view lines, const std::string& name,
                   std::vector<LongBenchSet>& sets);

// The prompt of a sample, cut in the middle so that it and the answer have at most `length` tokens.
// What follows the text counts as the question. An empty frame gives plain text; so do the datasets
// of examples and of code. Throws Error(kInvalidArgument) for a length that holds no text.
AskedTrial LongBenchTrial(std::string_view dataset, const LongBenchSample& sample,
                          const Tokenizer& tokenizer, const PromptFrame& frame, int64_t length);

// The best score over the answers of the sample, [0, 1].
double LongBenchScore(std::string_view dataset, const LongBenchSample& sample,
                      std::string_view answer);

// One outcome per plan, see AskPlans. An answer ends with what its score looks at.
std::vector<ScoredOutcome> RunLongBench(const Model& model, std::string_view dataset,
                                        const LongBenchSample& sample, const AskedTrial& trial,
                                        std::span<const Plan> plans, const Asking& asking);

}  // namespace pith
