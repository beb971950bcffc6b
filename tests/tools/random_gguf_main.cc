#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <map>

#include "tools/random_gguf.h"

int main(int argc, char** argv) {
  pith::testing::RandomGguf model;
  std::string output;
  std::string type = ggml_type_name(model.type);
  std::map<std::string, ggml_type> types;
  for (const ggml_type t : pith::testing::RandomGgufTypes()) types[ggml_type_name(t)] = t;

  CLI::App app("Writes a GGUF model with random weights.");
  app.add_option("-o,--output", output, "file to write")->required();
  app.add_option("--arch", model.architecture, "llama, qwen2 or qwen3")->capture_default_str();
  app.add_option("--layers", model.n_layers)->capture_default_str();
  app.add_option("--embd", model.n_embd)->capture_default_str();
  app.add_option("--heads", model.n_heads)->capture_default_str();
  app.add_option("--kv-heads", model.n_kv_heads)->capture_default_str();
  app.add_option("--head-dim", model.head_dim, "0: embd / heads")->capture_default_str();
  app.add_option("--ff", model.n_ff)->capture_default_str();
  app.add_option("--vocab", model.n_vocab, "0: the tokenizer's")->capture_default_str();
  app.add_option("--ctx", model.n_ctx)->capture_default_str();
  app.add_option("--rope-base", model.rope_freq_base)->capture_default_str();
  app.add_option("--rope-scaling", model.rope_scaling, "linear or yarn");
  app.add_option("--rope-factor", model.rope_scaling_factor)->capture_default_str();
  app.add_option("--rope-original-ctx", model.n_ctx_original, "0: ctx / rope-factor");
  app.add_flag("--llama3-rope", model.rope_factors, "write the frequency factors of Llama 3.1");
  app.add_flag("--tied", model.tied, "let the embeddings serve as output");
  app.add_option("--type", type, "of the weights")
      ->capture_default_str()
      ->check(CLI::IsMember(&types));
  app.add_option("--seed", model.seed)->capture_default_str();
  app.add_option("--repeat-rows", model.repeat_rows, "generate only so many rows of each matrix");
  app.add_option("--tokenizer-from", model.tokenizer_from, "GGUF file to copy the tokenizer from");
  CLI11_PARSE(app, argc, argv);

  try {
    model.type = types.at(type);
    pith::testing::WriteRandomGguf(model, output);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "random_gguf: %s\n", error.what());
    return 1;
  }
  return 0;
}
