// A text, a question about it and the model's answer, for several plans.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/branches.h"
#include "pith/text.h"

namespace pith {

// What stands before and after the words of a user whom the assistant is about to answer.
struct PromptFrame {
  std::vector<TextSegment> before;
  std::vector<TextSegment> after;
};
PromptFrame FrameOf(const ChatTemplate& chat);

// In the order they are read.
struct AskedTrial {
  std::vector<Token> opening;   // BOS and what stands before the user's words, may be empty
  std::vector<Token> context;   // what is compressed
  std::vector<Token> question;  // the question, the end of the turn, the beginning of the answer
  int question_words = 0;       // of `question`: tokens of the user's words
  int answer_tokens = 0;        // the answer has no more, at least 1
};

// Without the context. `question` is in the user's words; the assistant's begin with `lead`.
AskedTrial AskAbout(const Tokenizer& tokenizer, const PromptFrame& frame,
                    const std::string& question, const std::string& lead, int answer_tokens);
// Tokens that --length has to hold besides the context.
int64_t TokensBesideContext(const AskedTrial& trial);

// The largest n >= 0 with fits(n), where smaller ones fit as well; 0 unasked. Begins with `guess`.
int64_t MostThatFit(int64_t guess, const std::function<bool(int64_t n)>& fits);

// How answers are got.
struct Asking {
  Compression compression = Compression::kAfterReading;
  // The user's question is read, and may be evicted, with the context; otherwise nothing of it is
  // known while the context is compressed. The beginning of the answer always comes afterwards.
  bool aware = false;
  SessionOptions session;
};

struct Answered : ReadingStats {
  std::string answer;
};

// A task in which what the answer should hold gives a score.
struct ScoredOutcome : Answered {
  double score = 0;  // [0, 1]
  // Of the trial, for whoever reads the result.
  std::string subtask;
  std::vector<std::string> references;
};

// Opening (pinned), context, compression, question (pinned), and a greedy answer during which
// nothing is evicted either; it ends early with what ends a turn, or once `is_settled` says that
// nothing that may follow matters. One answer per plan, see ForEachPlan for what they may differ
// in. Up to 8 plans answer together (Batch), so that rounding depends on how many they are.
// Throws what Session throws.
std::vector<Answered> AskPlans(const Model& model, const AskedTrial& trial,
                               std::span<const Plan> plans, const Asking& asking,
                               const std::function<bool(std::string_view answer)>& is_settled = {});

}  // namespace pith
