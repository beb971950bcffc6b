// One fact in a long text, asked for after the text was compressed: RULER's niah_single_2
// (arXiv 2404.06654, section 3 and table 4; 7-digit numbers hidden in essays), or the same with
// words.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "eval/asked.h"
#include "eval/haystack.h"
#include "pith/text.h"

namespace pith {

enum class NeedleValues {
  kNumbers,  // of 7 digits
  kWords,    // "quiet-harbor", another one than the key
};

struct NeedleTrial : AskedTrial {
  std::string key;    // "quiet-harbor"
  std::string value;  // once in `text`
  double depth = 0;   // where the needle was to be hidden, [0, 1] of the haystack
  std::string text;   // of the context: RULER's first lines, the haystack, the needle in it
};

class NeedleTask {
 public:
  // Tokens that --length leaves to the answer, besides the prompt.
  static constexpr int kAnswerTokens = 24;

  // Both must outlive the task. An empty frame gives plain text. With n_depths > 0 trials take
  // turns at so many depths, evenly spaced from the beginning to the end (one: the middle).
  NeedleTask(const Tokenizer& tokenizer, PromptFrame frame, const Haystack& haystack, uint64_t seed,
             NeedleValues values = NeedleValues::kNumbers, int n_depths = 0);

  // The shortest length that every trial fits into.
  int64_t min_length() const { return min_length_; }

  // Trial `index`, with as many words of haystack as fit so that prompt and answer have at most
  // `length` tokens. The needle stands at the start of the sentence nearest to its depth, which is
  // random unless there are n_depths. The same seed and index give the same key, value, depth and
  // beginning of the haystack for every length, model and frame. Throws Error(kInvalidArgument) for
  // a length below min_length().
  NeedleTrial Make(int index, int64_t length) const;

 private:
  NeedleTrial Draw(int index, uint64_t& first_sentence) const;
  void Ask(NeedleTrial& trial) const;

  const Tokenizer& tokenizer_;
  PromptFrame frame_;
  const Haystack& haystack_;
  uint64_t seed_;
  NeedleValues values_;
  int n_depths_;
  int64_t min_length_ = 0;
};

}  // namespace pith
