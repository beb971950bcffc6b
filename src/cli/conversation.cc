#include "cli/conversation.h"

#include "base/fail.h"

namespace pith::cli {
namespace {

ChatTemplate ChooseTemplate(const Model& model, const std::string& name) {
  return name.empty() ? ChatTemplate::FromSource(model.info().chat_template)
                      : ChatTemplate::ByName(name);
}

}  // namespace

Conversation::Conversation(const Model& model, const std::string& template_name,
                           const std::string& system_message)
    : tokenizer_(model.tokenizer()), template_(ChooseTemplate(model, template_name)) {
  if (!system_message.empty()) opening_.push_back({"system", system_message});
}

std::vector<Token> Conversation::TokensFor(const std::string& user, bool from_start) const {
  if (!from_start) return tokenizer_.Encode(AfterLastAnswer(user));
  std::vector<ChatMessage> messages = opening_;
  messages.insert(messages.end(), turns_.begin(), turns_.end());
  messages.push_back({"user", user});
  std::vector<Token> tokens = tokenizer_.Encode(template_.Render(messages));
  if (tokenizer_.add_bos() && tokenizer_.bos() >= 0) {
    tokens.insert(tokens.begin(), tokenizer_.bos());
  }
  return tokens;
}

// The end of the answer's turn and the new one: the template is rendered with a mark in the
// answer's place and cut there, because the answer itself would not always give the tokens that
// were drawn.
std::vector<TextSegment> Conversation::AfterLastAnswer(const std::string& user) const {
  std::string mark = "pith-answer";
  while (user.find(mark) != std::string::npos) mark += '+';
  const std::vector<ChatMessage> messages = {{"user", "-"}, {"assistant", mark}, {"user", user}};
  const std::vector<TextSegment> all = template_.Render(messages);

  std::vector<TextSegment> rest;
  bool found = false;
  for (const TextSegment& segment : all) {
    if (found) {
      rest.push_back(segment);
      continue;
    }
    const size_t at = segment.text.find(mark);
    if (at == std::string::npos) continue;
    found = true;
    rest.push_back({segment.text.substr(at + mark.size()), segment.markup});
  }
  return rest;
}

void Conversation::AddTurn(const std::string& user, const std::string& answer) {
  turns_.push_back({"user", user});
  turns_.push_back({"assistant", answer});
}

void CheckFitsContext(const Session& session, size_t tokens, std::string_view what) {
  const int64_t needed = session.n_read() + static_cast<int64_t>(tokens);
  if (needed < session.n_ctx()) return;
  if (session.n_read() == 0) {
    Fail(ErrorCode::kInvalidArgument,
         "{} has {} tokens, but the context holds {} and one must be left for the answer", what,
         tokens, session.n_ctx());
  }
  Fail(ErrorCode::kInvalidArgument,
       "{} has {} tokens, but {} of the {} that the context holds are in use", what, tokens,
       session.n_read(), session.n_ctx());
}

}  // namespace pith::cli
