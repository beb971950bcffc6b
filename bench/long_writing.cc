// A session that writes, or reads one token at a time as if it wrote: what the cache holds as it
// goes on, and how well the text is predicted. long_writing.py runs it and draws.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "pith/pith.h"

namespace {

using Json = nlohmann::ordered_json;

struct Flags {
  std::string model, calibration, keep = "25%", prompt, text;
  int tokens = 4000;
  int every = 50;
  int n_ctx = 8192;
  int threads = 0;
  double temperature = 0.9;
  uint64_t seed = 1;
};

double NegativeLogLikelihood(std::span<const float> logits, pith::Token token) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum) - logits[static_cast<size_t>(token)];
}

std::string FileText(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + file);
  return {std::istreambuf_iterator<char>(in), {}};
}

// The model never ends: a text of a given length is wanted.
pith::Token Draw(const pith::Tokenizer& tokenizer, pith::Sampler& sampler,
                 std::span<const float> given) {
  std::vector<float> logits(given.begin(), given.end());
  for (pith::Token token = 0; token < tokenizer.n_vocab(); ++token) {
    if (tokenizer.IsEndOfGeneration(token)) {
      logits[static_cast<size_t>(token)] = -std::numeric_limits<float>::infinity();
    }
  }
  const pith::Token token = sampler.Sample(logits);
  sampler.Accept(token);
  return token;
}

Json Run(const Flags& flags) {
  const pith::Model model = pith::Model::Load(flags.model);
  const pith::Tokenizer& tokenizer = model.tokenizer();
  pith::Plan plan;
  plan.keep = pith::Keep::Parse(flags.keep);
  plan.scorer = "kvzap";
  plan.budget = "threshold";
  plan.calibration =
      std::make_shared<const pith::Calibration>(pith::Calibration::Load(flags.calibration));
  pith::Session session(model, plan, {.n_threads = flags.threads, .n_ctx = flags.n_ctx});
  const std::vector<pith::Token> prompt = tokenizer.Encode(flags.prompt, /*parse_special=*/true);
  std::vector<pith::Token> text;
  if (!flags.text.empty()) text = tokenizer.Encode(FileText(flags.text));
  if (!text.empty() && std::ssize(text) < flags.tokens) {
    throw std::runtime_error(flags.text + " is too short");
  }
  session.Read(prompt);
  pith::SamplingOptions sampling;
  sampling.temperature = static_cast<float>(flags.temperature);
  sampling.repeat_penalty = 1.1f;
  sampling.seed = flags.seed;
  pith::Sampler sampler(sampling);
  Json series = Json::array();
  std::vector<pith::Token> written;
  double nll = 0, nll_since = 0;
  for (int i = 0; i < flags.tokens; ++i) {
    const pith::Token token =
        text.empty() ? Draw(tokenizer, sampler, session.logits()) : text[static_cast<size_t>(i)];
    const double surprise = NegativeLogLikelihood(session.logits(), token);
    nll += surprise;
    nll_since += surprise;
    written.push_back(token);
    session.Next(token);
    if ((i + 1) % flags.every != 0) continue;
    const pith::CacheStats stats = session.stats();
    series.push_back({{"tokens", stats.tokens},
                      {"entries", stats.entries},
                      {"entries_full", stats.entries_full},
                      {"kv_bytes", stats.kv_bytes},
                      {"kv_bytes_full", stats.kv_bytes_full},
                      {"nll", nll_since / flags.every}});
    nll_since = 0;
  }
  Json out;
  out["model"] = model.info().name;
  out["keep"] = flags.keep;
  out["text"] = flags.text;
  out["prompt_tokens"] = prompt.size();
  out["nll"] = nll / flags.tokens;
  out["next_s"] = session.times().next_s;
  out["settle_s"] = session.times().settle_s;
  out["kv_bytes_peak"] = session.stats().kv_bytes_peak;
  out["series"] = series;
  if (text.empty()) out["written"] = tokenizer.Decode(written);
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Writes, or reads token by token, and says what the cache holds on the way.");
  app.add_option("-m,--model", flags.model)->required();
  app.add_option("--calibration", flags.calibration)->required();
  app.add_option("--keep", flags.keep, "with the scorer kvzap");
  app.add_option("--prompt", flags.prompt, "what stands before, markup included");
  app.add_option("--text", flags.text, "read this instead of writing");
  app.add_option("--tokens", flags.tokens)->check(CLI::PositiveNumber);
  app.add_option("--every", flags.every)->check(CLI::PositiveNumber);
  app.add_option("--ctx", flags.n_ctx);
  app.add_option("-t,--threads", flags.threads);
  app.add_option("--temp", flags.temperature);
  app.add_option("--seed", flags.seed);
  CLI11_PARSE(app, argc, argv);
  try {
    std::printf("%s\n", Run(flags).dump(1, ' ', false, Json::error_handler_t::replace).c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "long_writing: %s\n", error.what());
    return 1;
  }
  return 0;
}
