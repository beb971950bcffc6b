// Text to tokens and back.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pith {

using Token = int32_t;

// A stretch of text that is either content (special tokens in it are plain text) or markup
// (special tokens in it are recognised).
struct TextSegment {
  std::string text;
  bool markup = false;
};

// The tokenizer that a GGUF file describes (`tokenizer.ggml.*`). Immutable, safe to share.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Tokens of UTF-8 text, without BOS or EOS. Bytes that are not UTF-8 are encoded as they are; a
  // byte for which the vocabulary has no token is left out, or U+FFFD if it is not part of UTF-8.
  // `parse_special`: whether "<|im_end|>" and the like become one token.
  virtual std::vector<Token> Encode(std::string_view text, bool parse_special = false) const = 0;

  // Like Encode of the concatenation, with special tokens recognised in markup only.
  virtual std::vector<Token> Encode(std::span<const TextSegment> segments) const = 0;

  // The bytes a token stands for; may be part of a UTF-8 character. Special tokens give their name
  // if `special`, else nothing. Throws Error(kInvalidArgument) outside [0, n_vocab).
  virtual std::string Piece(Token token, bool special = false) const = 0;

  virtual int n_vocab() const = 0;
  virtual Token bos() const = 0;     // -1 if the vocabulary has none
  virtual Token eos() const = 0;     // -1 if the vocabulary has none
  virtual bool add_bos() const = 0;  // whether the model expects BOS before a text
  virtual bool IsEndOfGeneration(Token token) const = 0;  // EOS, end of turn, end of message

  // Text of a whole sequence; incomplete UTF-8 is replaced by U+FFFD.
  std::string Decode(std::span<const Token> tokens, bool special = false) const;
};

// Turns a stream of tokens into text that can be printed at once: never half a character.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool special = false)
      : tokenizer_(tokenizer), special_(special) {}

  std::string Push(Token token);  // what became complete
  std::string Finish();           // what is left, incomplete bytes as U+FFFD

 private:
  const Tokenizer& tokenizer_;
  bool special_;
  std::string pending_;
};

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

// A chat format: how a conversation becomes one text. Immutable, cheap to copy.
class ChatTemplate {
 public:
  // By name: "chatml", "llama2", "llama3", "mistral" (version 3; also "mistral-v0.2", "mistral-v1",
  // "mistral-v3-tekken", "mistral-v7", "mistral-v7-tekken"), "gemma", "phi3", or "none" (contents
  // only).
  // Throws Error(kInvalidArgument) naming the known ones.
  static ChatTemplate ByName(std::string_view name);
  // Recognises the Jinja source in `tokenizer.chat_template`.
  // Throws Error(kUnsupported) that advises --template when it is empty or not known.
  static ChatTemplate FromSource(std::string_view jinja_source);

  // Contents are never markup: "<|im_end|>" in a message stays text. With `add_generation_prompt`
  // the text ends where the assistant is to speak. BOS is not included.
  std::vector<TextSegment> Render(std::span<const ChatMessage> messages,
                                  bool add_generation_prompt = true) const;
  std::string_view name() const;

  struct Format;  // defined where the formats are
 private:
  explicit ChatTemplate(const Format* format) : format_(format) {}
  const Format* format_;
  std::string
      default_system_;  // what the model's own template says when no system message is given
};

}  // namespace pith
