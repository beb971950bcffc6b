#include "cli/conversation.h"

#include <algorithm>
#include <span>

#include "base/fail.h"
#include "text/cut_text.h"

namespace pith::cli {
namespace {

// Between a document and what is asked about it.
constexpr char kAfterDocument[] = "\n\n";

ChatTemplate ChooseTemplate(const Model& model, const std::string& name) {
  return name.empty() ? ChatTemplate::FromSource(model.info().chat_template)
                      : ChatTemplate::ByName(name);
}

// A word that none of the messages holds. A conversation is rendered with it in the place of a text
// whose tokens the session already has, and cut there: rendering that text again would not always
// give the same tokens.
std::string UnusedMark(std::span<const ChatMessage> messages) {
  std::string mark = "pith-mark";
  while (std::any_of(messages.begin(), messages.end(), [&](const ChatMessage& message) {
    return message.content.find(mark) != std::string::npos;
  })) {
    mark += '+';
  }
  return mark;
}

}  // namespace

Conversation::Conversation(const Model& model, const std::string& template_name,
                           const std::string& system_message)
    : tokenizer_(model.tokenizer()), template_(ChooseTemplate(model, template_name)) {
  if (!system_message.empty()) opening_.push_back({"system", system_message});
}

std::vector<Token> Conversation::BeforeDocument() const {
  const std::string mark = UnusedMark(opening_);
  std::vector<ChatMessage> messages = opening_;
  messages.push_back({"user", mark});
  std::vector<Token> tokens =
      tokenizer_.Encode(CutAt(mark, template_.Render(messages, false)).before);
  if (tokenizer_.add_bos() && tokenizer_.bos() >= 0) {
    tokens.insert(tokens.begin(), tokenizer_.bos());
  }
  return tokens;
}

std::vector<Token> Conversation::TokensFor(const std::string& user, bool from_start) const {
  if (!from_start) {
    std::vector<ChatMessage> messages = {{"user", "-"}, {"assistant", ""}, {"user", user}};
    const std::string mark = UnusedMark(messages);
    messages[1].content = mark;
    return tokenizer_.Encode(CutAt(mark, template_.Render(messages)).after);
  }
  std::vector<ChatMessage> messages = opening_;
  messages.insert(messages.end(), turns_.begin(), turns_.end());
  messages.push_back({"user", user});
  if (follows_document_) {
    const std::string mark = UnusedMark(messages);
    ChatMessage& first = messages[opening_.size()];
    first.content = mark + kAfterDocument + first.content;
    return tokenizer_.Encode(CutAt(mark, template_.Render(messages)).after);
  }
  std::vector<Token> tokens = tokenizer_.Encode(template_.Render(messages));
  if (tokenizer_.add_bos() && tokenizer_.bos() >= 0) {
    tokens.insert(tokens.begin(), tokenizer_.bos());
  }
  return tokens;
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
