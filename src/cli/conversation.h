// A chat as a session reads it: every turn only what is new.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "pith/model.h"
#include "pith/session.h"

namespace pith::cli {

class Conversation {
 public:
  // `template_name` empty: the model's own. Throws Error(kInvalidArgument, kUnsupported).
  Conversation(const Model& model, const std::string& template_name,
               const std::string& system_message);

  // What a session that holds all turns so far, or (`from_start`) nothing, has to read next so that
  // the assistant answers `user`.
  std::vector<Token> TokensFor(const std::string& user, bool from_start) const;
  // The turn is over and in the session.
  void AddTurn(const std::string& user, const std::string& answer);
  bool empty() const { return turns_.empty(); }
  void Clear() { turns_.clear(); }

 private:
  std::vector<TextSegment> AfterLastAnswer(const std::string& user) const;

  const Tokenizer& tokenizer_;
  ChatTemplate template_;
  std::vector<ChatMessage> opening_;  // the system message, if any
  std::vector<ChatMessage> turns_;
};

// Throws Error(kInvalidArgument) that names both numbers unless `tokens` and at least one more fit
// into what is left of the context.
void CheckFitsContext(const Session& session, size_t tokens, std::string_view what);

}  // namespace pith::cli
