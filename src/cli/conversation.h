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

  // A document is the beginning of the first user turn: what stands before it (BOS, the system
  // message, the opening of the turn). The document's own tokens follow.
  std::vector<Token> BeforeDocument() const;
  // From now on the first user message goes on where a document that the session holds ends.
  void FollowDocument() { follows_document_ = true; }

  // What the session has to read next so that the assistant answers `user`: one that holds all
  // turns so far or (`from_start`) nothing but the document, if there is one.
  std::vector<Token> TokensFor(const std::string& user, bool from_start) const;
  // The turn is over and in the session.
  void AddTurn(const std::string& user, const std::string& answer);
  void Clear() { turns_.clear(); }
  std::string_view template_name() const { return template_.name(); }

 private:
  const Tokenizer& tokenizer_;
  ChatTemplate template_;
  std::vector<ChatMessage> opening_;  // the system message, if any
  std::vector<ChatMessage> turns_;
  bool follows_document_ = false;
};

// Throws Error(kInvalidArgument) that names both numbers unless `tokens` and at least one more fit
// into what is left of the context.
void CheckFitsContext(const Session& session, size_t tokens, std::string_view what);

}  // namespace pith::cli
