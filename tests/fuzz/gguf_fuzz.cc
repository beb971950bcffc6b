// The GGUF reader and the hyper-parameter reader, on anything.
#include <ggml.h>

#include <cstdint>
#include <span>

#include "base/gguf_file.h"
#include "fuzz/seeds.h"
#include "model/hparams.h"
#include "pith/error.h"
#include "tools/gguf_bytes.h"

namespace {

using pith::Error;
using pith::GgufFile;
using pith::testing::GgufBytes;

// A header that ReadHyperParams accepts, with the tensor it looks at.
std::string Model(const std::string& architecture, const std::string& scaling) {
  GgufBytes file;
  file.Header(2, 19).Text("general.architecture", architecture).Text("general.name", "seed");
  for (const char* key :
       {"block_count", "context_length", "embedding_length", "feed_forward_length",
        "attention.head_count", "attention.head_count_kv", "attention.key_length",
        "attention.value_length", "rope.dimension_count", "rope.scaling.original_context_length"}) {
    file.Value<uint32_t>(architecture + "." + key, GGUF_TYPE_UINT32, 8);
  }
  for (const char* key :
       {"attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scaling.factor"}) {
    file.Value<float>(architecture + "." + key, GGUF_TYPE_FLOAT32, 2.0f);
  }
  file.Text(architecture + ".rope.scaling.type", scaling);
  file.ArrayHeader("tokenizer.ggml.tokens", GGUF_TYPE_STRING, 2).String("a").String("b");
  file.ArrayHeader("tokenizer.ggml.token_type", GGUF_TYPE_INT32, 2).Put<int32_t>(1).Put(3);
  file.ArrayHeader("tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, 1).Put(0.5f);
  file.Tensor("token_embd.weight", {8, 2}, GGML_TYPE_F32, 0);
  file.Tensor("output_norm.weight", {32}, GGML_TYPE_Q8_0, 64);
  return file.Pad(32).Raw(std::string(128, 'x')).bytes();
}

// Errors are what a damaged file should give; anything else is a finding.
template <typename Action>
void Try(Action action) {
  try {
    action();
  } catch (const Error&) {
  }
}

void ReadAll(const GgufFile& file) {
  for (const char* key :
       {"general.architecture", "general.alignment", "llama.block_count", "llama.rope.freq_base",
        "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"}) {
    Try([&] { file.FindString(key); });
    Try([&] { file.FindInt(key); });
    Try([&] { file.FindFloat(key); });
    Try([&] { file.FindBool(key); });
    Try([&] { file.Strings(key); });
    Try([&] { file.Ints(key); });
    Try([&] { file.Floats(key); });
  }
  unsigned sum = 0;
  for (ggml_tensor* t = ggml_get_first_tensor(file.tensors()); t != nullptr;
       t = ggml_get_next_tensor(file.tensors(), t)) {
    const auto bytes = file.TensorBytes(*t);
    sum += static_cast<unsigned>(bytes.front()) + static_cast<unsigned>(bytes.back());
  }
  volatile unsigned used = sum;
  (void)used;
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  pith::testing::WriteSeeds(*argc, *argv,
                            {Model("llama", "linear"), Model("llama", "yarn"),
                             Model("qwen2", "none"), Model("qwen3", "yarn")});
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Try([&] {
    const GgufFile file = GgufFile::Parse(std::as_bytes(std::span(data, size)), "fuzz");
    ReadAll(file);
    pith::ReadHyperParams(file);
  });
  return 0;
}
