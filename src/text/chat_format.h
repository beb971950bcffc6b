// How a family of models writes a conversation down.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "pith/text.h"

namespace pith {

struct ChatTemplate::Format {
  struct Turn {
    std::string_view before;
    std::string_view after;
    bool trim = false;  // white space around the content is dropped
  };

  std::string_view name;
  Turn user;
  Turn assistant;
  // Where the family knows no system role, `system` encloses it inside the next user turn.
  Turn system;
  bool folds_system = false;
  std::string_view before_later_user;  // in front of every user turn but the first
  std::string_view generation_prompt;
};

// What the Jinja source of a model's template shows to be.
struct ChatSource {
  std::string_view format;     // a name for ChatTemplate::ByName
  std::string default_system;  // said when the conversation has no system message; may be empty
};

// Throws Error(kUnsupported) when the source is of no known family.
ChatSource RecogniseChatSource(std::string_view jinja_source);

}  // namespace pith
