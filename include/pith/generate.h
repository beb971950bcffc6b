// Sampling and generation.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pith/session.h"

namespace pith {

// Applied in the order repeat penalty, top-k, top-p, min-p, temperature; greedy takes the likeliest
// token after the penalty.
struct SamplingOptions {
  float temperature = 0.0f;     // [0, 100], 0: greedy
  int top_k = 40;               // >= 0, 0: off
  float top_p = 0.95f;          // [0, 1], 1: off
  float min_p = 0.05f;          // [0, 1], 0: off
  float repeat_penalty = 1.0f;  // [0.01, 100], 1: off
  int repeat_last_n = 64;       // tokens the penalty looks at, 0: none, -1: all
  uint64_t seed = 0;
};

// Draws tokens from logits. The same options and logits give the same tokens.
class Sampler {
 public:
  // Throws Error(kInvalidArgument) for options out of range.
  explicit Sampler(const SamplingOptions& options);
  // Throws Error(kInvalidArgument) when there are no logits, one is NaN or +inf, or all are -inf.
  Token Sample(std::span<const float> logits);
  void Accept(Token token);  // remembers a token for the repeat penalty

 private:
  SamplingOptions options_;
  std::mt19937_64 random_;
  std::vector<Token> recent_;
};

enum class StopReason { kEndOfGeneration, kMaxTokens, kContextFull, kCancelled };

struct Generation {
  std::string text;
  std::vector<Token> tokens;
  StopReason stop = StopReason::kMaxTokens;
  double seconds = 0;
};

// Generates from the session's last logits until the model ends its turn, `max_tokens` are there
// (negative: no limit), the context is full or the session is cancelled. `on_text` is called after
// every token with the characters that became whole, maybe none, and returns false to stop. Every
// generated token, the last one too, has been read by the session afterwards, except one that ended
// the generation by itself.
// Throws Error(kInvalidArgument) when nothing was read before.
Generation Generate(Session& session, Sampler& sampler, int max_tokens,
                    const std::function<bool(std::string_view text)>& on_text = {});

}  // namespace pith
