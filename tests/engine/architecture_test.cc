// Architectures, shapes and weight types that no small file has: random models against llama.cpp.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "pith/error.h"
#include "pith/session.h"
#include "tools/random_gguf.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using nlohmann::json;

testing::RandomGguf OptionsOf(const json& record) {
  testing::RandomGguf m;
  m.architecture = record.at("arch");
  m.n_layers = record.at("layers");
  m.n_embd = record.at("embd");
  m.n_heads = record.at("heads");
  m.n_kv_heads = record.at("kv-heads");
  m.n_ff = record.at("ff");
  m.n_ctx = record.at("ctx");
  m.seed = record.at("seed");
  m.head_dim = record.value("head-dim", 0);
  m.rope_freq_base = record.value("rope-base", 10000.0f);
  m.rope_scaling = record.value("rope-scaling", "");
  m.rope_scaling_factor = record.value("rope-factor", 1.0f);
  m.rope_factors = record.value("llama3-rope", false);
  m.tied = record.value("tied", false);
  const std::string type = record.at("type");
  for (const ggml_type candidate : testing::RandomGgufTypes()) {
    if (ggml_type_name(candidate) == type) m.type = candidate;
  }
  if (ggml_type_name(m.type) != type) throw std::runtime_error("no type " + type);
  return m;
}

std::vector<std::vector<float>> LogitsOf(const Model& model, std::span<const Token> tokens,
                                         int n_batch) {
  Session session(model, {}, {.n_batch = n_batch, .n_threads = 1, .n_ctx = 128});
  std::vector<std::vector<float>> all;
  ReadOptions options;
  options.on_logits = [&](int64_t, std::span<const float> logits) {
    all.emplace_back(logits.begin(), logits.end());
  };
  session.Read(tokens, options);
  return all;
}

// |a - b| / |b|; NaN if either has one.
double RelativeError(std::span<const float> a, std::span<const float> b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += std::pow(double{a[i]} - b[i], 2);
    norm += std::pow(double{b[i]}, 2);
  }
  return std::sqrt(difference / norm);
}

// What llama.cpp's own arithmetic leaves open: it rounds queries and probabilities to f16 (2^-11),
// and activations to 8 bits (about 2^-8 of a block's largest) before they meet quantised weights,
// in each of the 22 products on the way to the logits.
double Tolerance(const std::string& type) {
  const double of_one = type == "f32" || type == "f16" ? std::ldexp(1, -11) : std::ldexp(1, -8);
  return of_one * std::sqrt(22.0) * 3;
}

TEST(Architecture, LogitsAgreeWithLlamaCpp) {
  json golden;
  std::ifstream(std::string(PITH_TEST_DATA) + "/architectures.json") >> golden;
  const std::vector<Token> tokens = golden.at("tokens");
  const std::vector<size_t> positions = golden.at("positions");
  ASSERT_GE(golden.at("records").size(), 20u);
  const testing::TempFolder folder;
  for (const json& record : golden.at("records")) {
    const json& options = record.at("options");
    SCOPED_TRACE(options.dump());
    const auto file = folder.path() / "model.gguf";
    testing::WriteRandomGguf(OptionsOf(options), file);
    const Model model = Model::Load(file);
    EXPECT_EQ(model.info().architecture, options.at("arch"));
    const auto logits = LogitsOf(model, tokens, 16);
    double worst = 0;
    for (size_t i = 0; i < positions.size(); ++i) {
      const std::vector<float> wanted = record.at("logits").at(i);
      const double error = RelativeError(logits[positions[i]], wanted);
      EXPECT_TRUE(error <= Tolerance(options.at("type")))
          << "position " << positions[i] << ": " << error;
      worst = std::max(worst, error);
    }
    std::printf("%-6s %-7s worst relative error %.1e\n",
                options.at("arch").get<std::string>().c_str(),
                options.at("type").get<std::string>().c_str(), worst);
  }
}

// With weights that need no rounding of activations, only f32 rounding and rare f16 steps of K and
// V are left between one way of feeding tokens and another.
TEST(Architecture, FeedingInChunksIsTheSameWithinRounding) {
  const testing::TempFolder folder;
  const auto file = folder.path() / "model.gguf";
  std::vector<Token> tokens;
  for (int i = 0; i < 120; ++i) tokens.push_back(i * 31 % 256);
  for (const std::string architecture : {"llama", "qwen2", "qwen3"}) {
    SCOPED_TRACE(architecture);
    testing::RandomGguf options;
    options.architecture = architecture;
    options.n_layers = 4;
    testing::WriteRandomGguf(options, file);
    const Model model = Model::Load(file);
    const auto whole = LogitsOf(model, tokens, 120);
    for (const int n_batch : {1, 7, 64}) {
      const auto chunked = LogitsOf(model, tokens, n_batch);
      double worst = 0;
      for (size_t t = 0; t < tokens.size(); ++t) {
        worst = std::max(worst, RelativeError(chunked[t], whole[t]));
        ASSERT_TRUE(worst <= 5e-4) << "token " << t << " in chunks of " << n_batch;
      }
      std::printf("%-6s chunks of %-3d worst relative error %.1e\n", architecture.c_str(), n_batch,
                  worst);
    }
  }
}

// Every type that ggml multiplies runs, whole and in chunks alike, repacked or as the file has it.
TEST(Architecture, EveryWeightTypeRuns) {
  const testing::TempFolder folder;
  std::vector<Token> tokens;
  for (int i = 0; i < 24; ++i) tokens.push_back(i * 31 % 256);
  for (const ggml_type type : testing::RandomGgufTypes()) {
    // ggml takes seconds to build the tables that these are made with; nothing else is special.
    if (type == GGML_TYPE_IQ2_XS || type == GGML_TYPE_IQ2_S || type == GGML_TYPE_IQ1_S ||
        type == GGML_TYPE_IQ1_M) {
      continue;
    }
    SCOPED_TRACE(ggml_type_name(type));
    testing::RandomGguf options;
    options.type = type;
    options.n_embd = 256;
    options.n_ff = 256;
    options.seed = 9;
    const auto file = folder.path() / "model.gguf";
    testing::WriteRandomGguf(options, file);
    const auto repacked = LogitsOf(Model::Load(file), tokens, 24);
    const auto mapped = LogitsOf(Model::Load(file, {.repack = false}), tokens, 24);
    const auto chunked = LogitsOf(Model::Load(file), tokens, 5);
    EXPECT_TRUE(RelativeError(repacked.back(), mapped.back()) <= 5e-2);
    EXPECT_TRUE(RelativeError(repacked.back(), chunked.back()) <= 5e-2);
    EXPECT_FALSE(repacked.front() == repacked.back());
  }
}

// Matrices of the same input are joined when they are repacked; biases and head norms stay apart.
TEST(Architecture, EveryArchitectureRunsRepacked) {
  const testing::TempFolder folder;
  std::vector<Token> tokens;
  for (int i = 0; i < 24; ++i) tokens.push_back(i * 31 % 256);
  for (const std::string architecture : {"llama", "qwen2", "qwen3"}) {
    for (const ggml_type type : {GGML_TYPE_Q4_0, GGML_TYPE_Q4_1}) {
      SCOPED_TRACE(architecture + " " + ggml_type_name(type));
      testing::RandomGguf options;
      options.architecture = architecture;
      options.type = type;
      options.n_embd = 192;
      options.n_heads = 6;
      options.n_ff = 224;
      options.seed = 10;
      const auto file = folder.path() / "model.gguf";
      testing::WriteRandomGguf(options, file);
      const Model model = Model::Load(file);
      const auto mapped = LogitsOf(Model::Load(file, {.repack = false}), tokens, 24);
      EXPECT_TRUE(RelativeError(LogitsOf(model, tokens, 24).back(), mapped.back()) <= 5e-2);
      EXPECT_TRUE(RelativeError(LogitsOf(model, tokens, 1).back(), mapped.back()) <= 5e-2);
    }
  }
}

TEST(Architecture, DamagedModelsAreRefused) {
  const testing::TempFolder folder;
  const auto file = folder.path() / "model.gguf";
  testing::WriteRandomGguf({}, file);
  const auto size = std::filesystem::file_size(file);
  EXPECT_NO_THROW(Model::Load(file));
  for (int cut = 0; cut < 64; ++cut) {
    const auto cut_file = folder.path() / "cut.gguf";
    std::filesystem::copy_file(file, cut_file, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(cut_file, size * cut / 64);
    EXPECT_THROW(Model::Load(cut_file), Error) << cut;
  }
  EXPECT_THROW(Model::Load(folder.path()), Error);
  EXPECT_THROW(Model::Load(folder.path() / "none.gguf"), Error);
}

}  // namespace
}  // namespace pith
