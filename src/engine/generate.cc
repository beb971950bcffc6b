// Generation: sample, read, say.
#include <chrono>

#include "base/fail.h"
#include "pith/generate.h"

namespace pith {
namespace {

// Returns false if the session was cancelled before it took the token.
bool ReadOne(Session& session, Token token) {
  const int64_t before = session.n_read();
  try {
    session.Next(token);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled) throw;
    return session.n_read() > before;
  }
  return true;
}

}  // namespace

Generation Generate(Session& session, Sampler& sampler, int max_tokens,
                    const std::function<bool(std::string_view text)>& on_text) {
  if (session.logits().empty()) {
    Fail(ErrorCode::kInvalidArgument, "nothing was read yet that text could follow");
  }
  const auto start = std::chrono::steady_clock::now();
  const Tokenizer& tokenizer = session.model().tokenizer();
  StreamDecoder decoder(tokenizer);
  Generation result;

  const auto say = [&](const std::string& text) {
    result.text += text;
    return !on_text || on_text(text);
  };
  for (;;) {
    if (max_tokens >= 0 && result.tokens.size() >= static_cast<size_t>(max_tokens)) {
      result.stop = StopReason::kMaxTokens;
      break;
    }
    if (session.n_read() >= session.n_ctx()) {
      result.stop = StopReason::kContextFull;
      break;
    }
    const Token token = sampler.Sample(session.logits());
    if (tokenizer.IsEndOfGeneration(token)) {
      result.stop = StopReason::kEndOfGeneration;
      break;
    }
    // Read before it is said, so that what was seen and what the session holds never differ.
    if (!ReadOne(session, token)) {
      result.stop = StopReason::kCancelled;
      break;
    }
    sampler.Accept(token);
    result.tokens.push_back(token);
    if (!say(decoder.Push(token))) {
      result.stop = StopReason::kCancelled;
      break;
    }
  }
  if (const std::string rest = decoder.Finish(); !rest.empty()) say(rest);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace pith
