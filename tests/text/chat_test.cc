#include <gtest/gtest.h>

#include "pith/text.h"
#include "text/small_vocabulary.h"
#include "text/tokenizer.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

using testing::ExpectError;

const std::vector<ChatMessage> kTalk = {
    {"system", "S"}, {"user", " U1 "}, {"assistant", "A1"}, {"user", "U2"}};
const std::vector<ChatMessage> kQuestion = {{"user", "U1"}};

std::string Text(const std::vector<TextSegment>& segments) {
  std::string text;
  for (const TextSegment& segment : segments) text += segment.text;
  return text;
}

std::string Render(std::string_view name, const std::vector<ChatMessage>& messages,
                   bool prompt = true) {
  return Text(ChatTemplate::ByName(name).Render(messages, prompt));
}

TEST(ChatTemplate, ChatMl) {
  EXPECT_EQ(Render("chatml", kTalk),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n U1 <|im_end|>\n"
            "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nU2<|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_EQ(Render("chatml", kQuestion, false), "<|im_start|>user\nU1<|im_end|>\n");
}

TEST(ChatTemplate, Llama2) {
  EXPECT_EQ(Render("llama2", kTalk),
            "[INST] <<SYS>>\nS\n<</SYS>>\n\nU1 [/INST] A1 </s><s>[INST] U2 [/INST]");
  EXPECT_EQ(Render("llama2", kQuestion), "[INST] U1 [/INST]");
}

TEST(ChatTemplate, Llama3) {
  EXPECT_EQ(Render("llama3", kTalk),
            "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nU1<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nU2<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

TEST(ChatTemplate, MistralOfAllVersions) {
  EXPECT_EQ(Render("mistral", kTalk), "[INST] S\n\n U1 [/INST] A1</s>[INST] U2[/INST]");
  EXPECT_EQ(Render("mistral-v0.2", kTalk), "[INST] S\n\n U1  [/INST]A1</s>[INST] U2 [/INST]");
  EXPECT_EQ(Render("mistral-v1", kTalk), " [INST] S\n\n U1  [/INST] A1</s> [INST] U2 [/INST]");
  EXPECT_EQ(Render("mistral-v3-tekken", kTalk), "[INST]S\n\n U1 [/INST]A1</s>[INST]U2[/INST]");
  EXPECT_EQ(Render("mistral-v7", kTalk),
            "[SYSTEM_PROMPT] S[/SYSTEM_PROMPT][INST]  U1 [/INST] A1</s>[INST] U2[/INST]");
  EXPECT_EQ(Render("mistral-v7-tekken", kTalk),
            "[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST] U1 [/INST]A1</s>[INST]U2[/INST]");
}

TEST(ChatTemplate, Gemma) {
  EXPECT_EQ(Render("gemma", kTalk),
            "<start_of_turn>user\nS\n\nU1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n"
            "<start_of_turn>user\nU2<end_of_turn>\n<start_of_turn>model\n");
}

TEST(ChatTemplate, Phi3) {
  EXPECT_EQ(Render("phi3", kTalk),
            "<|system|>\nS<|end|>\n<|user|>\n U1 <|end|>\n<|assistant|>\nA1<|end|>\n"
            "<|user|>\nU2<|end|>\n<|assistant|>\n");
}

TEST(ChatTemplate, NoneIsContentsOnly) {
  EXPECT_EQ(Render("none", kQuestion), "U1");
  const auto segments = ChatTemplate::ByName("none").Render(kQuestion);
  ASSERT_EQ(segments.size(), 1u);
  EXPECT_FALSE(segments[0].markup);
}

TEST(ChatTemplate, SystemMessageAloneIsNotLost) {
  for (const char* name : {"chatml", "llama2", "llama3", "mistral", "gemma", "phi3", "none"}) {
    EXPECT_NE(Render(name, {{"system", "only this"}}).find("only this"), std::string::npos) << name;
    EXPECT_NE(Render(name, {{"system", "one"}, {"system", "two"}, {"user", "U"}}).find("one"),
              std::string::npos);
  }
  EXPECT_EQ(Render("chatml", {}), "<|im_start|>assistant\n");
  EXPECT_EQ(Render("chatml", {}, false), "");
}

TEST(ChatTemplate, ContentIsNeverMarkup) {
  const std::vector<ChatMessage> hostile = {{"system", "<|s|>"}, {"user", "</s><|e|>"}};
  for (const char* name : {"chatml", "llama2", "llama3", "mistral", "gemma", "phi3", "none"}) {
    for (const TextSegment& segment : ChatTemplate::ByName(name).Render(hostile)) {
      EXPECT_EQ(segment.markup, segment.text.find("<|s|>") == std::string::npos &&
                                    segment.text.find("<|e|>") == std::string::npos)
          << name << ": " << segment.text;
    }
  }
}

TEST(ChatTemplate, RefusesUnknownNamesAndRoles) {
  ExpectError(ErrorCode::kInvalidArgument, "chatml, llama2, llama3, mistral",
              [] { ChatTemplate::ByName("esperanto"); });
  ExpectError(ErrorCode::kInvalidArgument, "'narrator'", [] {
    Render("chatml", {{"narrator", "once"}});
  });
}

// Sources as published with the models, shortened where the rest says nothing about the family.
TEST(ChatTemplateSource, SmolLm2AndItsSystemMessage) {
  const auto chat = ChatTemplate::FromSource(
      "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
      "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
      "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
      "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
      "{{ '<|im_start|>assistant\n' }}{% endif %}");
  EXPECT_EQ(chat.name(), "chatml");
  EXPECT_EQ(Text(chat.Render(kQuestion)),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
            "Face<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(Text(chat.Render(kTalk)), Render("chatml", kTalk))
      << "the caller's system message wins";
}

TEST(ChatTemplateSource, Qwen25AndItsSystemMessage) {
  const auto chat = ChatTemplate::FromSource(
      R"({%- if tools %}{{- '<|im_start|>system\n' }}{%- if messages[0]['role'] == 'system' %})"
      R"({{- messages[0]['content'] }}{%- else %}{{- 'You are Qwen.' }}{%- endif %}{%- else %})"
      R"({%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + )"
      R"(messages[0]['content'] + '<|im_end|>\n' }}{%- else %}{{- '<|im_start|>system\nYou\'re )"
      R"(Qwen, created by Alibaba Cloud.<|im_end|>\n' }}{%- endif %}{%- endif %})");
  EXPECT_EQ(Text(chat.Render(kQuestion, false)),
            "<|im_start|>system\nYou're Qwen, created by Alibaba Cloud.<|im_end|>\n"
            "<|im_start|>user\nU1<|im_end|>\n");
}

TEST(ChatTemplateSource, ChatMlWithoutSystemMessage) {
  for (const char* source :
       {R"({{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'}})",
        R"({{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }})",
        "<|im_start|>system", "<|im_start|>system\n<|im_end|>", "'<|im_start|>system\n<|im_end|>'",
        "'<|im_start|>system\\nYou ' + name + '", "'<|im_start|>system\\n<|im_end|>\\"}) {
    const std::string whole = std::string(source) + "<|im_end|>";
    EXPECT_EQ(Text(ChatTemplate::FromSource(whole).Render(kQuestion, false)),
              Render("chatml", kQuestion, false))
        << source;
  }
}

TEST(ChatTemplateSource, Families) {
  const auto name = [](std::string_view source) { return ChatTemplate::FromSource(source).name(); };
  EXPECT_EQ(name(R"({% set system_message = '<<SYS>>\n' + messages[0]['content'] %}{{ bos_token + )"
                 R"('[INST] ' + content.strip() + ' [/INST]' }})"),
            "llama2");
  EXPECT_EQ(name(R"({% set content = '<|start_header_id|>' + message['role'] + )"
                 R"('<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %})"),
            "llama3");
  EXPECT_EQ(name(R"({{ '[INST] ' + message['content'] + ' [/INST]' }})"), "mistral-v0.2");
  EXPECT_EQ(
      name(R"({{- " [INST] " + system_message + "\n\n" + message["content"] + " [/INST]" }})"),
      "mistral-v1");
  EXPECT_EQ(
      name(R"({{- "[AVAILABLE_TOOLS] [" }}{{- "[INST] " + message["content"] + "[/INST]" }})"),
      "mistral");
  EXPECT_EQ(name(R"({{- "[AVAILABLE_TOOLS][" }}{{- "[INST]" + message["content"] + "[/INST]" }})"),
            "mistral-v3-tekken");
  EXPECT_EQ(name(R"({{- "[SYSTEM_PROMPT] " + m + "[/SYSTEM_PROMPT]" }}{{- "[INST] " + m }})"),
            "mistral-v7");
  EXPECT_EQ(name(R"({{- '[SYSTEM_PROMPT]' + m + '[/SYSTEM_PROMPT]' }}{{- '[INST]' + m }})"),
            "mistral-v7-tekken");
  EXPECT_EQ(name(R"({{ '<start_of_turn>' + role + '\n' + message['content'] | trim }})"), "gemma");
  EXPECT_EQ(name(R"({{'<|user|>' + '\n' + message['content'] + '<|end|>' + '\n' + )"
                 R"('<|assistant|>' + '\n'}})"),
            "phi3");
  EXPECT_EQ(name(R"({{'<|user|>\n' + message['content'] + '<|end|>\n'}}{{'<|assistant|>\n'}})"),
            "phi3");
}

TEST(ChatTemplateSource, OthersAreRefusedWithAdvice) {
  for (const char* source :
       {"", "{{ messages }}", "<|im_start|>user<|im_sep|>x<|im_end|>",
        "'<|user|>' + message['content'] + '<|end|>' + '<|assistant|>'", "### Instruction:"}) {
    ExpectError(ErrorCode::kUnsupported, "--template NAME",
                [&] { ChatTemplate::FromSource(source); });
  }
}

TEST(ChatTemplate, TokensAreThoseOfTheWholeText) {
  Vocabulary vocabulary = testing::SmallByteLevel("gpt-2");
  for (const char* text : {"<|im_start|>", "<|im_end|>"}) {
    testing::AddToken(vocabulary, text, TokenType::kControl);
  }
  MarkEndsOfGeneration(vocabulary);
  const auto tokenizer = MakeTokenizer(std::move(vocabulary));
  const auto segments = ChatTemplate::ByName("chatml").Render(
      std::vector<ChatMessage>{{"user", "\nhello world\n"}, {"assistant", "  "}});
  EXPECT_EQ(tokenizer->Encode(segments), tokenizer->Encode(Text(segments), true));
}

}  // namespace
}  // namespace pith
