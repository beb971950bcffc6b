// Asks a question about a text file and shows what the cache holds afterwards.
//
//   ask_document MODEL.gguf DOCUMENT QUESTION [CALIBRATION.pithcal]
//
// A quarter of the cache is kept: what Q-Filters choose if there is a calibration of the model,
// otherwise the beginning and the most recent part of the text (StreamingLLM).
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "pith/pith.h"

namespace {

std::string ReadFile(const char* name) {
  std::ifstream file(name, std::ios::binary);
  if (!file) throw pith::Error(pith::ErrorCode::kNotFound, std::string("cannot open ") + name);
  return {std::istreambuf_iterator<char>(file), {}};
}

void Ask(const char* model_file, const char* document, const char* question,
         const char* calibration) {
  const pith::Model model = pith::Model::Load(model_file);

  pith::Plan plan;
  plan.keep = pith::Keep::Parse("25%");
  if (calibration != nullptr) {
    plan.scorer = "qfilter";
    plan.calibration = std::make_shared<pith::Calibration>(pith::Calibration::Load(calibration));
  } else {
    plan.scorer = "streaming_llm";
  }

  const pith::ChatMessage message = {"user", ReadFile(document) + "\n\n" + question};
  const auto chat = pith::ChatTemplate::FromSource(model.info().chat_template);
  const std::vector<pith::TextSegment> prompt = chat.Render({&message, 1});

  pith::Session session(model, plan);
  std::vector<pith::Token> tokens = model.tokenizer().Encode(prompt);
  if (model.tokenizer().add_bos()) tokens.insert(tokens.begin(), model.tokenizer().bos());
  session.Read(tokens);

  pith::Sampler sampler({});  // greedy
  pith::Generate(session, sampler, /*max_tokens=*/100, [](std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    return std::fflush(stdout) == 0;
  });

  const pith::CacheStats stats = session.stats();
  std::printf("\n\n%lld tokens read, %lld of %lld cache entries kept, %.1f of %.1f MiB\n",
              static_cast<long long>(stats.tokens), static_cast<long long>(stats.entries),
              static_cast<long long>(stats.entries_full), stats.kv_bytes / 1048576.0,
              stats.kv_bytes_full / 1048576.0);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    std::fprintf(stderr, "usage: %s MODEL.gguf DOCUMENT QUESTION [CALIBRATION.pithcal]\n", argv[0]);
    return 2;
  }
  try {
    Ask(argv[1], argv[2], argv[3], argc == 5 ? argv[4] : nullptr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ask_document: %s\n", error.what());
    return 1;
  }
  return 0;
}
