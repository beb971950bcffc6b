// Families are told apart by marks that only their templates have; no Jinja is run.
#include <optional>

#include "base/fail.h"
#include "text/chat_format.h"

namespace pith {
namespace {

bool Contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// A new line in a Jinja literal is either itself or written "\n"; 0 if there is none at `at`.
size_t NewLineLength(std::string_view source, size_t at) {
  if (source.substr(at).starts_with("\n")) return 1;
  if (source.substr(at).starts_with("\\n")) return 2;
  return 0;
}

// Also where the new line is added as a literal of its own.
bool HasNewLineAfter(std::string_view source, std::string_view mark) {
  size_t at = source.find(mark);
  if (at == std::string_view::npos) return false;
  at += mark.size();
  for (std::string_view join : {"' + '", "\" + \""}) {
    if (source.substr(at).starts_with(join)) at += join.size();
  }
  return NewLineLength(source, at) > 0;
}

// The text of a Jinja literal from `at` up to `end_mark`, nothing if the literal ends before.
std::optional<std::string> LiteralUpTo(std::string_view source, size_t at, char quote,
                                       std::string_view end_mark) {
  std::string text;
  for (size_t i = at; i < source.size(); ++i) {
    if (source.substr(i).starts_with(end_mark)) return text;
    const char c = source[i];
    if (c == quote) return std::nullopt;
    if (c != '\\' || i + 1 == source.size()) {
      text.push_back(c);
      continue;
    }
    const char escaped = source[++i];
    text.push_back(escaped == 'n' ? '\n' : escaped == 't' ? '\t' : escaped);
  }
  return std::nullopt;
}

// The system message that a ChatML template itself writes, as SmolLM2's and Qwen2.5's do:
// {{ '<|im_start|>system\nYou are ...<|im_end|>\n' }}.
std::string DefaultChatMlSystem(std::string_view source) {
  constexpr std::string_view kStart = "<|im_start|>system";
  for (size_t at = source.find(kStart, 1); at != std::string_view::npos;
       at = source.find(kStart, at + 1)) {
    const char quote = source[at - 1];
    const size_t new_line = NewLineLength(source, at + kStart.size());
    if ((quote != '\'' && quote != '"') || new_line == 0) continue;
    const std::optional<std::string> text =
        LiteralUpTo(source, at + kStart.size() + new_line, quote, "<|im_end|>");
    if (text && !text->empty()) return *text;
  }
  return "";
}

std::string_view MistralFormat(std::string_view source) {
  const bool has_space = Contains(source, "[INST] ");
  if (Contains(source, "[SYSTEM_PROMPT]")) return has_space ? "mistral-v7" : "mistral-v7-tekken";
  if (Contains(source, "<<SYS>>")) return "llama2";
  if (Contains(source, "\" [INST]") || Contains(source, "' [INST]")) return "mistral-v1";
  if (!has_space) return "mistral-v3-tekken";
  return Contains(source, "[AVAILABLE_TOOLS]") ? "mistral" : "mistral-v0.2";
}

}  // namespace

ChatSource RecogniseChatSource(std::string_view source) {
  const bool chatml = Contains(source, "<|im_start|>") && Contains(source, "<|im_end|>");
  if (chatml && !Contains(source, "<|im_sep|>") && !Contains(source, "<end_of_utterance>")) {
    return {"chatml", DefaultChatMlSystem(source)};
  }
  if (Contains(source, "<|start_header_id|>") && Contains(source, "<|end_header_id|>")) {
    return {"llama3", ""};
  }
  if (Contains(source, "<start_of_turn>")) return {"gemma", ""};
  if (Contains(source, "[INST]")) return {MistralFormat(source), ""};
  if (Contains(source, "<|end|>") && HasNewLineAfter(source, "<|assistant|>")) {
    return {"phi3", ""};
  }
  if (source.empty()) {
    Fail(ErrorCode::kUnsupported,
         "the model has no chat template; choose one with --template NAME");
  }
  Fail(ErrorCode::kUnsupported,
       "the model's chat template is of no known family; choose one with --template NAME");
}

}  // namespace pith
