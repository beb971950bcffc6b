// Compresses a text file once into a snapshot, then answers any number of questions about it, each
// in a fork that shares the snapshot's pages.
//
//   compress_once MODEL.gguf DOCUMENT SNAPSHOT.pith QUESTION...
//
// If the snapshot is there already, the document is not read again.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "pith/pith.h"

namespace {

std::string ReadFile(const char* name) {
  std::ifstream file(name, std::ios::binary);
  if (!file) throw pith::Error(pith::ErrorCode::kNotFound, std::string("cannot open ") + name);
  return {std::istreambuf_iterator<char>(file), {}};
}

void Compress(const pith::Model& model, const char* document, const char* snapshot) {
  pith::Plan plan;
  plan.scorer = "kvzip";                 // an entry is worth what it takes to repeat the text
  plan.keep = pith::Keep::Parse("25%");  // shared over all layers and heads
  pith::Session session(model, plan);
  session.Read(model.tokenizer().Encode("Text: " + ReadFile(document)));
  session.Save(snapshot);
  const pith::CacheStats stats = session.stats();
  std::printf("%lld of %lld cache entries kept, %.1f of %.1f MiB\n",
              static_cast<long long>(stats.entries), static_cast<long long>(stats.entries_full),
              stats.kv_bytes / 1048576.0, stats.kv_bytes_full / 1048576.0);
}

void Ask(pith::Session& text, const std::string& question) {
  pith::Session session = text.Fork();
  pith::ReadOptions whole;
  whole.pin = true;  // nothing of the question is dropped, and nothing for its sake
  session.Read(session.model().tokenizer().Encode("\n\nQuestion: " + question + "\nAnswer:"),
               whole);
  pith::Sampler sampler({});  // greedy
  pith::Generate(session, sampler, /*max_tokens=*/40, [](std::string_view words) {
    std::fwrite(words.data(), 1, words.size(), stdout);
    return words.find('\n') == std::string_view::npos;
  });
  std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: %s MODEL.gguf DOCUMENT SNAPSHOT.pith QUESTION...\n", argv[0]);
    return 2;
  }
  try {
    const pith::Model model = pith::Model::Load(argv[1]);
    if (!std::filesystem::exists(argv[3])) Compress(model, argv[2], argv[3]);
    pith::Session text = pith::Session::Load(model, argv[3]);
    for (int i = 4; i < argc; ++i) Ask(text, argv[i]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "compress_once: %s\n", error.what());
    return 1;
  }
  return 0;
}
