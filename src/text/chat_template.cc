#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/fail.h"
#include "base/printable.h"
#include "text/chat_format.h"

namespace pith {
namespace {

using Format = ChatTemplate::Format;

// The formats as the models' own templates write them, without BOS. Mistral's are described in
// mistralai/cookbook, concept-deep-dive/tokenization/chat_templates.md.
constexpr std::array<Format, 12> kFormats = {{
    {.name = "chatml",
     .user = {"<|im_start|>user\n", "<|im_end|>\n"},
     .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"},
     .system = {"<|im_start|>system\n", "<|im_end|>\n"},
     .generation_prompt = "<|im_start|>assistant\n"},
    {.name = "llama2",
     .user = {"[INST] ", " [/INST]", true},
     .assistant = {" ", " </s>", true},
     .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"},
     .folds_system = true,
     .before_later_user = "<s>"},
    {.name = "llama3",
     .user = {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>", true},
     .assistant = {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", true},
     .system = {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>", true},
     .generation_prompt = "<|start_header_id|>assistant<|end_header_id|>\n\n"},
    {.name = "mistral",
     .user = {"[INST] ", "[/INST]"},
     .assistant = {" ", "</s>", true},
     .system = {"", "\n\n"},
     .folds_system = true},
    {.name = "mistral-v0.2",
     .user = {"[INST] ", " [/INST]"},
     .assistant = {"", "</s>"},
     .system = {"", "\n\n"},
     .folds_system = true},
    {.name = "mistral-v1",
     .user = {" [INST] ", " [/INST]"},
     .assistant = {" ", "</s>"},
     .system = {"", "\n\n"},
     .folds_system = true},
    {.name = "mistral-v3-tekken",
     .user = {"[INST]", "[/INST]"},
     .assistant = {"", "</s>"},
     .system = {"", "\n\n"},
     .folds_system = true},
    {.name = "mistral-v7",
     .user = {"[INST] ", "[/INST]"},
     .assistant = {" ", "</s>"},
     .system = {"[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"}},
    {.name = "mistral-v7-tekken",
     .user = {"[INST]", "[/INST]"},
     .assistant = {"", "</s>"},
     .system = {"[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"}},
    {.name = "gemma",
     .user = {"<start_of_turn>user\n", "<end_of_turn>\n", true},
     .assistant = {"<start_of_turn>model\n", "<end_of_turn>\n", true},
     .system = {"", "\n\n", true},
     .folds_system = true,
     .generation_prompt = "<start_of_turn>model\n"},
    {.name = "phi3",
     .user = {"<|user|>\n", "<|end|>\n"},
     .assistant = {"<|assistant|>\n", "<|end|>\n"},
     .system = {"<|system|>\n", "<|end|>\n"},
     .generation_prompt = "<|assistant|>\n"},
    {.name = "none"},
}};

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\n\v\f\r";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

// Puts segments together, neighbours of one kind in one.
class Writer {
 public:
  void Markup(std::string_view text) { Add(text, true); }
  void Content(std::string_view text, bool trim) { Add(trim ? Trim(text) : text, false); }
  void Turn(const Format::Turn& turn, std::string_view content) {
    Markup(turn.before);
    Content(content, turn.trim);
    Markup(turn.after);
  }
  std::vector<TextSegment> Take() { return std::move(segments_); }

 private:
  void Add(std::string_view text, bool markup) {
    if (text.empty()) return;
    if (segments_.empty() || segments_.back().markup != markup) segments_.push_back({"", markup});
    segments_.back().text += text;
  }

  std::vector<TextSegment> segments_;
};

// A user turn with the system message, if any, folded into it.
void WriteUser(const Format& format, std::string_view system, std::string_view content,
               bool is_first, Writer& writer) {
  if (!is_first) writer.Markup(format.before_later_user);
  if (system.empty()) {
    writer.Turn(format.user, content);
    return;
  }
  writer.Markup(format.user.before);
  writer.Turn(format.system, system);
  writer.Content(content, format.user.trim);
  writer.Markup(format.user.after);
}

}  // namespace

ChatTemplate ChatTemplate::ByName(std::string_view name) {
  std::vector<std::string_view> names;
  for (const Format& format : kFormats) {
    if (format.name == name) return ChatTemplate(&format);
    names.push_back(format.name);
  }
  Fail(ErrorCode::kInvalidArgument, "unknown chat template '{}', expected one of {}",
       Printable(name), fmt::join(names, ", "));
}

ChatTemplate ChatTemplate::FromSource(std::string_view jinja_source) {
  ChatSource source = RecogniseChatSource(jinja_source);
  ChatTemplate result = ByName(source.format);
  result.default_system_ = std::move(source.default_system);
  return result;
}

std::string_view ChatTemplate::name() const { return format_->name; }

std::vector<TextSegment> ChatTemplate::Render(std::span<const ChatMessage> messages,
                                              bool add_generation_prompt) const {
  Writer writer;
  if (!messages.empty() && messages.front().role != "system" && !default_system_.empty()) {
    writer.Turn(format_->system, default_system_);
  }
  std::string folded;  // system message that waits for the next user turn
  bool is_first = true;
  for (const ChatMessage& message : messages) {
    if (message.role == "system" && format_->folds_system) {
      folded += folded.empty() ? message.content : "\n\n" + message.content;
    } else if (message.role == "system") {
      writer.Turn(format_->system, message.content);
    } else if (message.role == "user") {
      WriteUser(*format_, folded, message.content, is_first, writer);
      folded.clear();
      is_first = false;
    } else if (message.role == "assistant") {
      writer.Turn(format_->assistant, message.content);
    } else {
      Fail(ErrorCode::kInvalidArgument,
           "a message has the role '{}', expected 'system', 'user' or 'assistant'",
           Printable(message.role));
    }
  }
  if (!folded.empty()) WriteUser(*format_, folded, "", is_first, writer);
  if (add_generation_prompt) writer.Markup(format_->generation_prompt);
  return writer.Take();
}

}  // namespace pith
