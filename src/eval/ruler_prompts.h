// What the tasks of RULER are made of, one function each. Prompts, names and numbers are those of
// its published scripts.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "eval/ruler.h"
#include "eval/seeded_random.h"

namespace pith {

// A prompt whose text grows.
struct RulerPrompt {
  std::function<std::string(int64_t n)> text;  // of n units: sentences, words, bytes of essays, ...
  int64_t fewest = 0;                          // units it makes sense with
  int64_t most = INT64_MAX;                    // units there are
  std::string question;                        // after the text, with what separates the two
  std::string lead;                            // with which the assistant is to begin
  std::vector<std::string> references;
};

// What a trial is drawn from: the data, and a seeded source of its own.
struct RulerDraw {
  const RulerData& data;
  const Tokenizer& tokenizer;
  int64_t length;  // of prompt and answer
  int answer_tokens;
  SeededRandom random;
};

enum class RulerHay { kNoise, kEssays, kNeedles };
enum class RulerValue { kWords, kNumbers, kUuids };

struct RulerNeedles {
  RulerHay hay = RulerHay::kEssays;
  RulerValue key = RulerValue::kWords;
  RulerValue value = RulerValue::kNumbers;
  int n_keys = 1;
  int n_values = 1;   // of each key
  int n_queries = 1;  // keys that are asked for
};

RulerPrompt DrawNeedles(const RulerNeedles& needles, RulerDraw draw);
RulerPrompt DrawVariableTracking(RulerDraw draw);
RulerPrompt DrawCommonWords(RulerDraw draw);
RulerPrompt DrawFrequentWords(RulerDraw draw);
RulerPrompt DrawDocuments(const RulerDocuments& documents, RulerDraw draw);

// Keys, values and variables.
std::string DrawWords(const RulerWords& words, SeededRandom& random);  // "quiet-harbor"
std::string DrawUuid(SeededRandom& random);                            // version 4
std::string DrawLetters(int n, char first, SeededRandom& random);      // 26 from `first`

// `parts`, put into `lines` where the shares in [0, 1) of `depths` (ascending, one for each part)
// say.
std::vector<std::string> Interleave(const std::vector<std::string>& lines,
                                    const std::vector<std::string>& parts,
                                    const std::vector<double>& depths);

inline constexpr std::string_view kRulerNoise =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

}  // namespace pith
