#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "tools/random_kvzap.h"

int main(int argc, char** argv) {
  std::string model, output, form = "linear";
  pith::testing::RandomKvzap options;

  CLI::App app("Writes a .pithcal with a KVzap surrogate of random weights.");
  app.add_option("-m,--model", model, "GGUF file whose shape it fits")->required();
  app.add_option("-o,--output", output, "file to write")->required();
  app.add_option("--form", form, "linear or mlp")
      ->capture_default_str()
      ->check(CLI::IsMember({"linear", "mlp"}));
  app.add_option("--seed", options.seed)->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  try {
    options.mlp = form == "mlp";
    pith::testing::MakeRandomKvzap(model, options).Save(output);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "random_kvzap: %s\n", error.what());
    return 1;
  }
  return 0;
}
