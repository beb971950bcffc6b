// One fact in a long text, asked for after the text was compressed: RULER's niah_single_2
// (arXiv 2404.06654, section 3 and table 4; 7-digit numbers hidden in essays), or the same with
// words.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "eval/haystack.h"
#include "pith/text.h"

namespace pith {

// What stands before and after the words of a user whom the assistant is about to answer.
struct PromptFrame {
  std::vector<TextSegment> before;
  std::vector<TextSegment> after;
};
PromptFrame FrameOf(const ChatTemplate& chat);

enum class NeedleValues {
  kNumbers,  // of 7 digits
  kWords,    // "quiet-harbor", another one than the key
};

struct NeedleTrial {
  std::string key;    // "quiet-harbor"
  std::string value;  // once in `text`
  double depth = 0;   // where the needle was to be hidden, [0, 1] of the haystack
  std::string text;   // RULER's first lines, the haystack, the needle in it
  // In the order they are read. Nothing of the question is known while the context is compressed.
  std::vector<Token> opening;   // BOS and what stands before the user's words, may be empty
  std::vector<Token> context;   // `text`
  std::vector<Token> question;  // the question, the end of the turn, the beginning of the answer
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
  int64_t FrameTokens(const NeedleTrial& trial) const;

  const Tokenizer& tokenizer_;
  PromptFrame frame_;
  const Haystack& haystack_;
  uint64_t seed_;
  NeedleValues values_;
  int n_depths_;
  int64_t min_length_ = 0;
};

// Whether `answer` names `value`, as RULER scores: anywhere, in upper or lower case.
bool AnswerNames(std::string_view answer, std::string_view value);

}  // namespace pith
