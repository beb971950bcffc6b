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

struct SamplingOptions {
  float temperature = 0.0f;     // 0: greedy
  int top_k = 40;               // 0: off
  float top_p = 0.95f;          // 1: off
  float min_p = 0.05f;          // 0: off
  float repeat_penalty = 1.0f;  // 1: off
  int repeat_last_n = 64;       // tokens the penalty looks at
  uint64_t seed = 0;
};

// Draws tokens from logits. The same options and logits give the same tokens.
class Sampler {
 public:
  // Throws Error(kInvalidArgument) for options out of range.
  explicit Sampler(const SamplingOptions& options);
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

// Generates from the session's last logits until the model ends its turn. `on_text` gets whole
// characters as they come and returns false to stop. Every generated token, the last one too, has
// been read by the session afterwards, except one that ended the generation by itself.
// Throws Error(kInvalidArgument) when nothing was read before.
Generation Generate(Session& session, Sampler& sampler, int max_tokens,
                    const std::function<bool(std::string_view text)>& on_text = {});

}  // namespace pith
