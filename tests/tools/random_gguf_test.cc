#include "tools/random_gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <set>

#include "base/gguf_file.h"
#include "model/hparams.h"
#include "tools/temp_folder.h"

namespace pith::testing {
namespace {

TEST(RandomGguf, HasTheShapeAskedFor) {
  const TempFolder folder;
  for (const char* architecture : {"llama", "qwen2", "qwen3"}) {
    RandomGguf model;
    model.architecture = architecture;
    model.n_layers = 3;
    model.head_dim = 32;
    model.n_ff = 96;
    model.n_vocab = 300;
    model.rope_scaling = "linear";
    model.rope_scaling_factor = 4;
    WriteRandomGguf(model, folder / "x.gguf");
    const GgufFile file = GgufFile::Open(folder / "x.gguf");
    const HyperParams h = ReadHyperParams(file);
    EXPECT_EQ(h.architecture, architecture);
    EXPECT_EQ(h.n_layers, 3);
    EXPECT_EQ(h.n_embd, 64);
    EXPECT_EQ(h.n_heads, 4);
    EXPECT_EQ(h.n_kv_heads, 2);
    EXPECT_EQ(h.head_dim, 32);
    EXPECT_EQ(h.n_ff, 96);
    EXPECT_EQ(h.n_vocab, 300);
    EXPECT_EQ(h.n_ctx_train, 512);
    EXPECT_EQ(h.rope_scaling.freq_scale, 0.25f);
    EXPECT_EQ(file.Strings("tokenizer.ggml.tokens").size(), 300u);
    EXPECT_EQ(file.Ints("tokenizer.ggml.token_type").size(), 300u);
    EXPECT_EQ(file.FindTensor("blk.2.attn_q.bias") != nullptr, h.qkv_bias);
    EXPECT_EQ(file.FindTensor("blk.2.attn_k_norm.weight") != nullptr, h.qk_norm);
    EXPECT_NE(file.FindTensor("output.weight"), nullptr);
  }
}

TEST(RandomGguf, WritesTypesOfEveryKind) {
  const TempFolder folder;
  // ggml spends seconds to make the tables of these before it quantises the first row.
  const std::set<ggml_type> slow = {GGML_TYPE_IQ2_XS, GGML_TYPE_IQ2_S, GGML_TYPE_IQ1_S,
                                    GGML_TYPE_IQ1_M};
  for (const ggml_type type : RandomGgufTypes()) {
    if (slow.contains(type)) continue;
    RandomGguf model;
    model.type = type;
    model.n_embd = model.n_ff = 256;
    model.n_layers = 1;
    model.tied = true;
    WriteRandomGguf(model, folder / "x.gguf");
    const GgufFile file = GgufFile::Open(folder / "x.gguf");
    const ggml_tensor* tensor = file.FindTensor("blk.0.ffn_up.weight");
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->type, type);
    EXPECT_EQ(file.FindTensor("output.weight"), nullptr);

    // Rows stay close to normal with variance 1/256 whatever the type makes of them.
    const auto bytes = file.TensorBytes(*tensor);
    std::vector<float> values(256 * 256);
    const ggml_type_traits* traits = ggml_get_type_traits(type);
    if (type == GGML_TYPE_F32) {
      std::memcpy(values.data(), bytes.data(), bytes.size());
    } else {
      traits->to_float(bytes.data(), values.data(), 256 * 256);
    }
    double sum = 0, squares = 0;
    for (const float v : values) {
      sum += v;
      squares += static_cast<double>(v) * v;
    }
    EXPECT_TRUE(std::abs(sum / 256) <= 1) << ggml_type_name(type);
    EXPECT_TRUE(squares / 256 >= 0.5 && squares / 256 <= 2) << ggml_type_name(type) << squares;
  }
}

TEST(RandomGguf, TheSeedDecides) {
  const TempFolder folder;
  RandomGguf model;
  WriteRandomGguf(model, folder / "a");
  WriteRandomGguf(model, folder / "b");
  model.seed = 2;
  WriteRandomGguf(model, folder / "c");
  EXPECT_EQ(ReadWhole(folder / "a"), ReadWhole(folder / "b"));
  EXPECT_NE(ReadWhole(folder / "a"), ReadWhole(folder / "c"));
}

TEST(RandomGguf, CarriesTheTokenizerOfAnotherFile) {
  const TempFolder folder;
  RandomGguf model;
  model.tokenizer_from = PITH_TEST_MODEL;
  const GgufFile source = GgufFile::Open(PITH_TEST_MODEL);
  const std::vector<std::string> tokens = source.Strings("tokenizer.ggml.tokens");
  for (const int n_vocab : {0, 1000, 49200}) {
    model.n_vocab = n_vocab;
    WriteRandomGguf(model, folder / "x");
    const GgufFile file = GgufFile::Open(folder / "x");
    const std::vector<std::string> got = file.Strings("tokenizer.ggml.tokens");
    EXPECT_EQ(got.size(), n_vocab == 0 ? tokens.size() : static_cast<size_t>(n_vocab));
    EXPECT_TRUE(std::equal(got.begin(), got.begin() + 1000, tokens.begin()));
    EXPECT_EQ(ReadHyperParams(file).n_vocab, static_cast<int>(got.size()));
    EXPECT_EQ(file.String("tokenizer.ggml.pre"), source.String("tokenizer.ggml.pre"));
    EXPECT_EQ(file.Strings("tokenizer.ggml.merges").size() <
                  source.Strings("tokenizer.ggml.merges").size(),
              n_vocab == 1000);
  }
}

TEST(RandomGguf, RefusesWhatCannotBe) {
  const TempFolder folder;
  const auto refuse = [&](auto change) {
    RandomGguf model;
    change(model);
    EXPECT_THROW(WriteRandomGguf(model, folder / "x"), std::runtime_error);
    EXPECT_FALSE(std::filesystem::exists(folder / "x"));
  };
  refuse([](RandomGguf& m) { m.architecture = "gpt2"; });
  refuse([](RandomGguf& m) { m.n_kv_heads = 3; });
  refuse([](RandomGguf& m) { m.n_layers = 0; });
  refuse([](RandomGguf& m) { m.type = GGML_TYPE_Q4_K; });
  refuse([](RandomGguf& m) { m.type = GGML_TYPE_I32; });
  refuse([](RandomGguf& m) { m.n_vocab = 100; });
  refuse([&](RandomGguf& m) { m.tokenizer_from = folder / "none"; });
  EXPECT_THROW(WriteRandomGguf({}, folder / "none" / "x"), std::runtime_error);
}

}  // namespace
}  // namespace pith::testing
