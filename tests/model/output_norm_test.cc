// |W_O v| against arrays made by another implementation, and against the direct product.
#include "model/output_norm.h"

#include <ggml.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/safetensors.h"
#include "tools/expect_error.h"
#include "tools/random_gguf.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

TEST(OutputNorms, EqualAnotherImplementationOnTheDefaultModel) {
  const GgufFile file = GgufFile::Open(PITH_TEST_MODEL);
  const OutputNorms output_norms(file, ReadHyperParams(file));
  constexpr size_t kHeads = 9, kGroup = 3, kEntries = 128, kHeadDim = 64;
  for (const int layer : {3, 15}) {
    const std::string suffix = "_layer" + std::to_string(layer) + ".safetensors";
    const std::vector<float> v =
        SafeTensors::Open(PITH_TEST_DATA "/scorers" + suffix).Get("v").ToFloats();
    const std::vector<float> want =
        SafeTensors::Open(PITH_TEST_DATA "/kvzip" + suffix).Get("value_norm").ToFloats();
    ASSERT_EQ(v.size(), kHeads / kGroup * kEntries * kHeadDim);
    ASSERT_EQ(want.size(), kHeads * kEntries);
    for (size_t head = 0; head < kHeads; ++head) {
      std::vector<float> norms(kEntries);
      const float* of_head = v.data() + head / kGroup * kEntries * kHeadDim;
      output_norms.Norms(layer, static_cast<int>(head), {of_head, kEntries, kHeadDim, kHeadDim},
                         norms);
      for (size_t i = 0; i < kEntries; ++i) {
        const float expected = want[head * kEntries + i];
        ASSERT_TRUE(std::abs(norms[i] - expected) <= 1e-4f * expected)
            << "layer " << layer << ", head " << head << ", entry " << i << ": " << norms[i]
            << " instead of " << expected;
      }
    }
  }
}

// One row of a matrix of the file, in floats.
std::vector<float> Row(const GgufFile& file, const ggml_tensor& tensor, int64_t row) {
  std::vector<float> out(static_cast<size_t>(tensor.ne[0]));
  const size_t row_bytes = ggml_row_size(tensor.type, tensor.ne[0]);
  const std::byte* bytes = file.TensorBytes(tensor).data() + static_cast<size_t>(row) * row_bytes;
  if (tensor.type == GGML_TYPE_F32) {
    std::memcpy(out.data(), bytes, row_bytes);
  } else {
    ggml_get_type_traits(tensor.type)->to_float(bytes, out.data(), tensor.ne[0]);
  }
  return out;
}

class OutputNormsOfType : public ::testing::TestWithParam<ggml_type> {};

// More rows than one block in the matrix and in the values, values with a stride.
TEST_P(OutputNormsOfType, EqualTheDirectProduct) {
  const testing::TempFolder folder;
  testing::RandomGguf model;
  model.type = GetParam();
  model.n_embd = 288;
  model.n_heads = 4;
  model.head_dim = 64;
  model.n_ff = 96;
  testing::WriteRandomGguf(model, folder / "x.gguf");
  const GgufFile file = GgufFile::Open(folder / "x.gguf");
  const OutputNorms output_norms(file, ReadHyperParams(file));

  constexpr size_t kRows = 300, kHeadDim = 64, kStride = 70;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> values(kRows * kStride);
  for (float& value : values) value = normal(random);
  std::fill_n(values.begin(), kHeadDim, 0.0f);
  for (const int layer : {1, 0}) {
    const ggml_tensor& tensor =
        *file.FindTensor("blk." + std::to_string(layer) + ".attn_output.weight");
    ASSERT_EQ(tensor.type, GetParam());
    for (const int head : {0, 3}) {
      std::vector<double> squares(kRows);
      for (int64_t out = 0; out < tensor.ne[1]; ++out) {
        const std::vector<float> weights = Row(file, tensor, out);
        for (size_t i = 0; i < kRows; ++i) {
          double dot = 0;
          for (size_t d = 0; d < kHeadDim; ++d) {
            dot += static_cast<double>(weights[static_cast<size_t>(head) * kHeadDim + d]) *
                   values[i * kStride + d];
          }
          squares[i] += dot * dot;
        }
      }
      std::vector<float> norms(kRows);
      output_norms.Norms(layer, head, {values.data(), kRows, kHeadDim, kStride}, norms);
      for (size_t i = 0; i < kRows; ++i) {
        const double expected = std::sqrt(squares[i]);
        ASSERT_TRUE(std::abs(norms[i] - expected) <= 1e-5 * expected)
            << "layer " << layer << ", head " << head << ", entry " << i << ": " << norms[i]
            << " instead of " << expected;
      }
      EXPECT_EQ(norms[0], 0.0f);
      EXPECT_GT(norms[1], 1.0f);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, OutputNormsOfType,
                         ::testing::Values(GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q4_1,
                                           GGML_TYPE_Q8_0));

TEST(OutputNorms, ManyThreadsMayAskFirst) {
  const testing::TempFolder folder;
  testing::WriteRandomGguf({}, folder / "x.gguf");
  const GgufFile file = GgufFile::Open(folder / "x.gguf");
  const OutputNorms output_norms(file, ReadHyperParams(file));
  const std::vector<float> value(16, 1.0f);
  std::vector<float> norms(8);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < norms.size(); ++i) {
    threads.emplace_back([&, i] {
      output_norms.Norms(1, 2, {value.data(), 1, 16, 16}, std::span(norms).subspan(i, 1));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(norms[0], 0.0f);
  for (const float norm : norms) EXPECT_EQ(norm, norms[0]);
}

TEST(OutputNorms, NamesWhatTheFileLacks) {
  const testing::TempFolder folder;
  testing::WriteRandomGguf({}, folder / "x.gguf");
  const GgufFile file = GgufFile::Open(folder / "x.gguf");
  HyperParams hparams = ReadHyperParams(file);
  hparams.n_layers = 3;
  const std::vector<float> value(64, 1.0f);
  float norm = 0;
  const auto ask = [&](int layer) {
    const OutputNorms output_norms(file, hparams);
    const auto head_dim = static_cast<size_t>(hparams.head_dim);
    output_norms.Norms(layer, 0, {value.data(), 1, head_dim, head_dim}, {&norm, 1});
  };
  EXPECT_NO_THROW(ask(1));
  EXPECT_NO_THROW(OutputNorms(file, hparams).Norms(1, 0, {}, {}));
  testing::ExpectError(ErrorCode::kFormat, "blk.2.attn_output.weight is missing", [&] { ask(2); });
  hparams.head_dim = 32;
  testing::ExpectError(ErrorCode::kFormat, "has shape [64, 64], expected [128, 64]",
                       [&] { ask(1); });
}

}  // namespace
}  // namespace pith
