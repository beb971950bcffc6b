#include "model/hparams.h"

#include <array>
#include <cmath>
#include <string_view>

#include <ggml.h>

#include "base/fail.h"

namespace pith {
namespace {

struct Architecture {
  std::string_view name;
  bool rope_interleaved;
  bool qkv_bias;
  bool qk_norm;
};

// `llama` files have their q and k rows reordered so that RoPE pairs are neighbours.
constexpr std::array kArchitectures = {
    Architecture{"llama", true, false, false},
    Architecture{"qwen2", false, true, false},
    Architecture{"qwen3", false, false, true},
};

const Architecture& FindArchitecture(const GgufFile& file, const std::string& name) {
  for (const Architecture& a : kArchitectures) {
    if (a.name == name) return a;
  }
  Fail(ErrorCode::kUnsupported,
       "{}: architecture '{}' is not known; pith runs llama, qwen2 and qwen3", file.name(), name);
}

class Reader {
 public:
  Reader(const GgufFile& file, std::string prefix) : file_(file), prefix_(std::move(prefix)) {}

  int Count(std::string_view key, int64_t max) const {
    return Checked(key, file_.Int(Key(key)), max);
  }
  int Count(std::string_view key, int64_t max, int fallback) const {
    auto value = file_.FindInt(Key(key));
    return value ? Checked(key, *value, max) : fallback;
  }
  float Positive(std::string_view key, float fallback) const {
    const auto found = file_.FindFloat(Key(key));
    const double value = found.value_or(fallback);
    if (!(value > 0) || !std::isfinite(static_cast<float>(value))) {
      Fail(ErrorCode::kFormat, "{}: {} is {}, expected a positive number", file_.name(), Key(key),
           value);
    }
    return static_cast<float>(value);
  }
  std::string Key(std::string_view key) const { return prefix_ + "." + std::string(key); }

 private:
  int Checked(std::string_view key, int64_t value, int64_t max) const {
    if (value < 1 || value > max) {
      Fail(ErrorCode::kFormat, "{}: {} is {}, expected 1 to {}", file_.name(), Key(key), value,
           max);
    }
    return static_cast<int>(value);
  }

  const GgufFile& file_;
  std::string prefix_;
};

RopeScaling ReadRopeScaling(const GgufFile& file, const Reader& read, int n_ctx_train) {
  RopeScaling scaling;
  scaling.n_ctx_original = read.Count("rope.scaling.original_context_length", 1 << 28, n_ctx_train);
  const std::string type =
      file.FindString(read.Key("rope.scaling.type"))
          .value_or(file.Has(read.Key("rope.scale_linear")) ? "linear" : "none");
  if (type == "none") return scaling;
  if (type != "linear" && type != "yarn") {
    Fail(ErrorCode::kUnsupported,
         "{}: RoPE scaling '{}' is not known; pith knows none, linear, yarn and frequency factors",
         file.name(), type);
  }
  const float factor =
      read.Positive("rope.scaling.factor", read.Positive("rope.scale_linear", 1.0f));
  scaling.freq_scale = 1.0f / factor;
  scaling.attn_factor = read.Positive("rope.scaling.attn_factor", 1.0f);
  if (type == "yarn") {
    scaling.ext_factor = 1.0f;
    scaling.beta_fast = read.Positive("rope.scaling.yarn_beta_fast", 32.0f);
    scaling.beta_slow = read.Positive("rope.scaling.yarn_beta_slow", 1.0f);
  }
  return scaling;
}

}  // namespace

HyperParams ReadHyperParams(const GgufFile& file) {
  HyperParams h;
  h.architecture = file.String("general.architecture");
  const Architecture& architecture = FindArchitecture(file, h.architecture);
  h.rope_interleaved = architecture.rope_interleaved;
  h.qkv_bias = architecture.qkv_bias;
  h.qk_norm = architecture.qk_norm;
  h.name = file.FindString("general.name").value_or(h.architecture);

  const Reader read(file, h.architecture);
  if (file.FindInt(read.Key("expert_count")).value_or(0) > 0) {
    Fail(ErrorCode::kUnsupported, "{}: a mixture of experts; pith runs dense models only",
         file.name());
  }
  h.n_layers = read.Count("block_count", 1024);
  h.n_ctx_train = read.Count("context_length", 1 << 28);
  h.n_embd = read.Count("embedding_length", 1 << 20);
  h.n_ff = read.Count("feed_forward_length", 1 << 22);
  h.n_heads = read.Count("attention.head_count", 4096);
  h.n_kv_heads = read.Count("attention.head_count_kv", 4096, h.n_heads);
  if (h.n_heads % h.n_kv_heads != 0) {
    Fail(ErrorCode::kFormat, "{}: {} query heads cannot share {} KV heads evenly", file.name(),
         h.n_heads, h.n_kv_heads);
  }
  h.head_dim = read.Count("attention.key_length", 256, h.n_embd / h.n_heads);
  if (h.head_dim < 8 || h.head_dim > 256 || h.head_dim % 8 != 0) {
    Fail(ErrorCode::kUnsupported, "{}: head_dim is {}, pith runs multiples of 8 up to 256",
         file.name(), h.head_dim);
  }
  const int value_dim = read.Count("attention.value_length", 4096, h.head_dim);
  if (value_dim != h.head_dim) {
    Fail(ErrorCode::kUnsupported,
         "{}: keys of {} and values of {} dimensions; pith needs them equal", file.name(),
         h.head_dim, value_dim);
  }
  h.n_rot = read.Count("rope.dimension_count", h.head_dim, h.head_dim);
  if (h.n_rot % 2 != 0) {
    Fail(ErrorCode::kFormat, "{}: rope.dimension_count is {}, expected an even number", file.name(),
         h.n_rot);
  }
  h.norm_eps = read.Positive("attention.layer_norm_rms_epsilon", 1e-5f);
  h.rope_freq_base = read.Positive("rope.freq_base", 10000.0f);
  h.rope_scaling = ReadRopeScaling(file, read, h.n_ctx_train);

  const ggml_tensor* embeddings = file.FindTensor("token_embd.weight");
  if (!embeddings) Fail(ErrorCode::kFormat, "{}: tensor token_embd.weight is missing", file.name());
  if (embeddings->ne[1] < 1 || embeddings->ne[1] > (1 << 24)) {
    Fail(ErrorCode::kFormat, "{}: a vocabulary of {} tokens, expected 1 to {}", file.name(),
         embeddings->ne[1], 1 << 24);
  }
  h.n_vocab = static_cast<int>(embeddings->ne[1]);
  return h;
}

}  // namespace pith
