#include "tools/random_gguf.h"

#include <fmt/format.h>
#include <gguf.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <set>
#include <stdexcept>
#include <string_view>

namespace pith::testing {
namespace {

template <typename... Args>
[[noreturn]] void Refuse(fmt::format_string<Args...> format, Args&&... args) {
  throw std::runtime_error(fmt::format(format, std::forward<Args>(args)...));
}

struct GgufFree {
  void operator()(gguf_context* context) const { gguf_free(context); }
};
struct GgmlFree {
  void operator()(ggml_context* context) const { ggml_free(context); }
};
using Gguf = std::unique_ptr<gguf_context, GgufFree>;

// What a tensor's values look like: mean + deviation * N(0, 1), or `values` as they are.
struct TensorPlan {
  ggml_tensor* tensor = nullptr;
  float mean = 0;
  float deviation = 0;
  std::vector<float> values;
};

// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
uint64_t NextRandom(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// The sum of four uniform numbers is near enough to normal, and quick for billions of weights.
float NextNormal(uint64_t& state) {
  const uint64_t bits = NextRandom(state);
  const auto sum = static_cast<float>((bits & 0xffff) + (bits >> 16 & 0xffff) +
                                      (bits >> 32 & 0xffff) + (bits >> 48));
  return (sum / 65536.0f - 2.0f) * std::sqrt(3.0f);
}

std::string Utf8(uint32_t code) {  // below 0x800
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

// GPT-2's printable stand-ins for the 256 bytes.
std::vector<std::string> ByteTokens() {
  std::vector<std::string> tokens;
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    tokens.push_back(Utf8(printable ? byte : next++));
  }
  return tokens;
}

void SetStrings(gguf_context* gguf, const char* key, const std::vector<std::string>& strings) {
  std::vector<const char*> pointers;
  pointers.reserve(strings.size());
  for (const std::string& s : strings) pointers.push_back(s.c_str());
  gguf_set_arr_str(gguf, key, pointers.data(), pointers.size());
}

std::vector<std::string> GetStrings(const gguf_context* gguf, const char* key) {
  std::vector<std::string> strings;
  const int64_t id = gguf_find_key(gguf, key);
  if (id < 0) return strings;
  for (size_t i = 0; i < gguf_get_arr_n(gguf, id); ++i) {
    strings.emplace_back(gguf_get_arr_str(gguf, id, i));
  }
  return strings;
}

constexpr const char* kTokens = "tokenizer.ggml.tokens";
constexpr const char* kTypes = "tokenizer.ggml.token_type";
constexpr const char* kScores = "tokenizer.ggml.scores";
constexpr const char* kMerges = "tokenizer.ggml.merges";
constexpr int32_t kNormal = 1, kControl = 3, kUnused = 5;  // token types

void SetByteTokenizer(gguf_context* gguf) {
  std::vector<std::string> tokens = ByteTokens();
  std::vector<int32_t> types(tokens.size(), kNormal);
  const auto first_special = static_cast<uint32_t>(tokens.size());
  for (const char* special : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    tokens.emplace_back(special);
    types.push_back(kControl);
  }
  gguf_set_val_str(gguf, "tokenizer.ggml.model", "gpt2");
  gguf_set_val_str(gguf, "tokenizer.ggml.pre", "gpt-2");
  SetStrings(gguf, kTokens, tokens);
  gguf_set_arr_data(gguf, kTypes, GGUF_TYPE_INT32, types.data(), types.size());
  SetStrings(gguf, kMerges, {});
  gguf_set_val_u32(gguf, "tokenizer.ggml.bos_token_id", first_special);
  gguf_set_val_u32(gguf, "tokenizer.ggml.eos_token_id", first_special + 2);
  gguf_set_val_bool(gguf, "tokenizer.ggml.add_bos_token", false);
  gguf_set_val_str(gguf, "tokenizer.chat_template",
                   "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
                   "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if "
                   "add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}");
}

// Only for a `gguf` without keys of its own.
void CopyTokenizer(gguf_context* gguf, const std::filesystem::path& file) {
  const Gguf source(gguf_init_from_file(file.c_str(), {.no_alloc = true, .ctx = nullptr}));
  if (source == nullptr || gguf_find_key(source.get(), kTokens) < 0) {
    Refuse("{} is not a GGUF file with a tokenizer", file.string());
  }
  gguf_set_kv(gguf, source.get());
  for (int64_t i = gguf_get_n_kv(gguf) - 1; i >= 0; --i) {
    const std::string key = gguf_get_key(gguf, i);
    if (!key.starts_with("tokenizer.")) gguf_remove_key(gguf, key.c_str());
  }
}

// Cuts or extends an array that has one element a token, if it is there.
template <typename T>
void ResizeArray(gguf_context* gguf, const char* key, gguf_type type, size_t n, T filler) {
  const int64_t id = gguf_find_key(gguf, key);
  if (id < 0) return;
  const auto* data = static_cast<const T*>(gguf_get_arr_data(gguf, id));
  std::vector<T> values(data, data + gguf_get_arr_n(gguf, id));
  values.resize(n, filler);
  gguf_set_arr_data(gguf, key, type, values.data(), values.size());
}

// Makes the tokenizer have `n_vocab` tokens: the first ones, or unused ones added.
void ResizeTokenizer(gguf_context* gguf, size_t n_vocab) {
  std::vector<std::string> tokens = GetStrings(gguf, kTokens);
  const bool cut = n_vocab < tokens.size();
  while (tokens.size() < n_vocab) tokens.push_back(fmt::format("<|unused_{}|>", tokens.size()));
  tokens.resize(n_vocab);
  for (int64_t i = 0; i < gguf_get_n_kv(gguf); ++i) {
    const std::string_view key = gguf_get_key(gguf, i);
    if (key.ends_with("_token_id") && gguf_get_kv_type(gguf, i) == GGUF_TYPE_UINT32 &&
        gguf_get_val_u32(gguf, i) >= n_vocab) {
      Refuse("{} tokens leave none for {} = {}", n_vocab, key, gguf_get_val_u32(gguf, i));
    }
  }
  ResizeArray<int32_t>(gguf, kTypes, GGUF_TYPE_INT32, n_vocab, kUnused);
  ResizeArray<float>(gguf, kScores, GGUF_TYPE_FLOAT32, n_vocab, 0.0f);
  SetStrings(gguf, kTokens, tokens);
  if (!cut || gguf_find_key(gguf, kMerges) < 0) return;
  const std::set<std::string, std::less<>> known(tokens.begin(), tokens.end());
  std::vector<std::string> merges;
  for (std::string& merge : GetStrings(gguf, kMerges)) {
    const size_t space = merge.find(' ', 1);
    const std::string_view whole = merge;
    if (space == std::string::npos) continue;
    const std::string_view left = whole.substr(0, space), right = whole.substr(space + 1);
    if (known.contains(left) && known.contains(right) &&
        known.contains(std::string(left) + std::string(right))) {
      merges.push_back(std::move(merge));
    }
  }
  SetStrings(gguf, kMerges, merges);
}

// The frequency factors of Llama 3.1: long wavelengths are stretched 8 times, short ones not.
std::vector<float> LlamaRopeFactors(int head_dim, float freq_base) {
  constexpr double kFactor = 8, kLow = 1, kHigh = 4, kOriginalContext = 8192;
  std::vector<float> factors;
  for (int i = 0; i < head_dim; i += 2) {
    const double wavelength =
        2 * 3.14159265358979 * std::pow(freq_base, static_cast<double>(i) / head_dim);
    const double smooth =
        std::clamp((kOriginalContext / wavelength - kLow) / (kHigh - kLow), 0.0, 1.0);
    factors.push_back(static_cast<float>(1 / ((1 - smooth) / kFactor + smooth)));
  }
  return factors;
}

class Writer {
 public:
  Writer(RandomGguf model, std::filesystem::path file)
      : model_(std::move(model)), path_(std::move(file)), gguf_(gguf_init_empty()) {
    if (model_.head_dim == 0) model_.head_dim = model_.n_embd / std::max(1, model_.n_heads);
  }

  void Write() {
    CheckShape();
    if (model_.tokenizer_from.empty()) {
      SetByteTokenizer(gguf_.get());
    } else {
      CopyTokenizer(gguf_.get(), model_.tokenizer_from);
    }
    const int64_t tokens = gguf_find_key(gguf_.get(), kTokens);
    const auto n_tokens = static_cast<int>(gguf_get_arr_n(gguf_.get(), tokens));
    if (model_.n_vocab == 0) model_.n_vocab = n_tokens;
    if (model_.n_vocab != n_tokens) ResizeTokenizer(gguf_.get(), model_.n_vocab);
    SetHyperParams();
    PlanTensors();
    WriteFile();
  }

 private:
  void CheckShape() const {
    const RandomGguf& m = model_;
    if (m.architecture != "llama" && m.architecture != "qwen2" && m.architecture != "qwen3") {
      Refuse("unknown architecture {}", m.architecture);
    }
    if (std::min({m.n_layers, m.n_embd, m.n_heads, m.n_kv_heads, m.head_dim, m.n_ff, m.n_ctx}) <
            1 ||
        m.n_vocab < 0 || m.n_heads % m.n_kv_heads != 0 || m.head_dim % 2 != 0) {
      Refuse("a shape that no model can have");
    }
    const auto& types = RandomGgufTypes();
    if (std::find(types.begin(), types.end(), m.type) == types.end()) {
      Refuse("{} is not a type for weights", ggml_type_name(m.type));
    }
    for (const int n_in : {m.n_embd, m.n_heads * m.head_dim, m.n_ff}) {
      if (n_in % ggml_blck_size(m.type) != 0) {
        Refuse("rows of {} do not make whole blocks of {}", n_in, ggml_type_name(m.type));
      }
    }
  }

  std::string Key(std::string_view key) const {
    return fmt::format("{}.{}", model_.architecture, key);
  }
  void SetCount(std::string_view key, int value) {
    gguf_set_val_u32(gguf_.get(), Key(key).c_str(), static_cast<uint32_t>(value));
  }
  void SetFloat(std::string_view key, float value) {
    gguf_set_val_f32(gguf_.get(), Key(key).c_str(), value);
  }

  void SetHyperParams() {
    const RandomGguf& m = model_;
    gguf_set_val_str(gguf_.get(), "general.architecture", m.architecture.c_str());
    gguf_set_val_str(gguf_.get(), "general.name", fmt::format("random {}", m.seed).c_str());
    gguf_set_val_u32(gguf_.get(), "general.quantization_version", GGML_QNT_VERSION);
    SetCount("block_count", m.n_layers);
    SetCount("context_length", m.n_ctx);
    SetCount("embedding_length", m.n_embd);
    SetCount("feed_forward_length", m.n_ff);
    SetCount("attention.head_count", m.n_heads);
    SetCount("attention.head_count_kv", m.n_kv_heads);
    SetFloat("attention.layer_norm_rms_epsilon", 1e-5f);
    SetFloat("rope.freq_base", m.rope_freq_base);
    if (m.architecture == "llama") {
      SetCount("rope.dimension_count", m.head_dim);
      SetCount("vocab_size", m.n_vocab);
    }
    if (m.architecture == "qwen3" || m.head_dim * m.n_heads != m.n_embd) {
      SetCount("attention.key_length", m.head_dim);
      SetCount("attention.value_length", m.head_dim);
    }
    if (m.rope_scaling.empty()) return;
    gguf_set_val_str(gguf_.get(), Key("rope.scaling.type").c_str(), m.rope_scaling.c_str());
    SetFloat("rope.scaling.factor", m.rope_scaling_factor);
    const auto original = static_cast<int>(static_cast<float>(m.n_ctx) / m.rope_scaling_factor);
    SetCount("rope.scaling.original_context_length",
             m.n_ctx_original != 0 ? m.n_ctx_original : original);
  }

  void Add(const std::string& name, ggml_type type, int64_t n_in, int64_t n_out, float mean,
           float deviation, std::vector<float> values = {}) {
    ggml_tensor* tensor = n_out == 0 ? ggml_new_tensor_1d(tensors_.get(), type, n_in)
                                     : ggml_new_tensor_2d(tensors_.get(), type, n_in, n_out);
    ggml_set_name(tensor, name.c_str());
    gguf_add_tensor(gguf_.get(), tensor);
    plans_.push_back({tensor, mean, deviation, std::move(values)});
  }
  void AddMatrix(const std::string& name, int64_t n_in, int64_t n_out) {
    Add(name + ".weight", model_.type, n_in, n_out, 0, 1 / std::sqrt(static_cast<float>(n_in)));
  }
  void AddNorm(const std::string& name, int64_t n) {
    Add(name + ".weight", GGML_TYPE_F32, n, 0, 1, 0.1f);
  }
  void AddBias(const std::string& name, int64_t n, float deviation = 0.3f) {
    Add(name + ".bias", GGML_TYPE_F32, n, 0, 0, deviation);
  }

  void PlanTensors() {
    const RandomGguf& m = model_;
    const size_t most = 16 * static_cast<size_t>(m.n_layers) + 8;
    tensors_.reset(ggml_init({most * ggml_tensor_overhead(), nullptr, true}));
    const int64_t n_q = int64_t{m.n_heads} * m.head_dim;
    const int64_t n_kv = int64_t{m.n_kv_heads} * m.head_dim;
    if (m.rope_factors) {
      Add("rope_freqs.weight", GGML_TYPE_F32, m.head_dim / 2, 0, 0, 0,
          LlamaRopeFactors(m.head_dim, m.rope_freq_base));
    }
    AddMatrix("token_embd", m.n_embd, m.n_vocab);
    for (int layer = 0; layer < m.n_layers; ++layer) {
      const std::string block = fmt::format("blk.{}.", layer);
      AddNorm(block + "attn_norm", m.n_embd);
      AddMatrix(block + "attn_q", m.n_embd, n_q);
      AddMatrix(block + "attn_k", m.n_embd, n_kv);
      AddMatrix(block + "attn_v", m.n_embd, n_kv);
      if (m.architecture == "qwen2") {
        AddBias(block + "attn_q", n_q);
        AddBias(block + "attn_k", n_kv, m.key_bias);
        AddBias(block + "attn_v", n_kv);
      }
      if (m.architecture == "qwen3") {
        AddNorm(block + "attn_q_norm", m.head_dim);
        AddNorm(block + "attn_k_norm", m.head_dim);
      }
      AddMatrix(block + "attn_output", n_q, m.n_embd);
      AddNorm(block + "ffn_norm", m.n_embd);
      AddMatrix(block + "ffn_gate", m.n_embd, m.n_ff);
      AddMatrix(block + "ffn_up", m.n_embd, m.n_ff);
      AddMatrix(block + "ffn_down", m.n_ff, m.n_embd);
    }
    AddNorm("output_norm", m.n_embd);
    if (!m.tied) AddMatrix("output", m.n_embd, m.n_vocab);
  }

  void WriteFile() {
    out_.open(path_, std::ios::binary | std::ios::trunc);
    std::vector<char> meta(gguf_get_meta_size(gguf_.get()));
    gguf_get_meta_data(gguf_.get(), meta.data());
    out_.write(meta.data(), static_cast<std::streamsize>(meta.size()));
    const size_t alignment = gguf_get_alignment(gguf_.get());
    for (size_t i = 0; i < plans_.size() && out_; ++i) {
      uint64_t seed = model_.seed + i * 0x632be59bd9b4e019;
      WriteTensor(plans_[i], NextRandom(seed));
      const size_t size = ggml_nbytes(plans_[i].tensor);
      const std::vector<char> padding((alignment - size % alignment) % alignment);
      out_.write(padding.data(), static_cast<std::streamsize>(padding.size()));
    }
    out_.close();
    if (!out_) {
      std::error_code ignored;
      std::filesystem::remove(path_, ignored);
      Refuse("{} cannot be written", path_.string());
    }
  }

  void WriteTensor(const TensorPlan& plan, uint64_t seed) {
    constexpr int64_t kMostAtOnce = 1 << 20;  // elements
    const ggml_tensor& tensor = *plan.tensor;
    const int64_t n_in = tensor.ne[0];
    const int64_t n_rows = ggml_nrows(&tensor);
    int64_t step = std::clamp<int64_t>(kMostAtOnce / n_in, 1, n_rows);
    if (model_.repeat_rows > 0) step = std::min<int64_t>(step, model_.repeat_rows);
    std::vector<float> values = plan.values;
    std::vector<char> bytes;
    const std::vector<float> importance(
        ggml_quantize_requires_imatrix(tensor.type) ? static_cast<size_t>(n_in) : 0, 1.0f);
    for (int64_t row = 0; row < n_rows && out_; row += step) {
      const int64_t rows = std::min(step, n_rows - row);
      if (row == 0 || model_.repeat_rows == 0) {
        if (plan.values.empty()) {
          values.resize(static_cast<size_t>(rows * n_in));
          for (float& value : values) value = plan.mean + plan.deviation * NextNormal(seed);
        }
        bytes.resize(ggml_row_size(tensor.type, n_in) * static_cast<size_t>(rows));
        ggml_quantize_chunk(tensor.type, values.data(), bytes.data(), 0, rows, n_in,
                            importance.empty() ? nullptr : importance.data());
      }
      const size_t size = ggml_row_size(tensor.type, n_in) * static_cast<size_t>(rows);
      out_.write(bytes.data(), static_cast<std::streamsize>(size));
    }
  }

  RandomGguf model_;
  std::filesystem::path path_;
  Gguf gguf_;
  std::unique_ptr<ggml_context, GgmlFree> tensors_;
  std::vector<TensorPlan> plans_;
  std::ofstream out_;
};

}  // namespace

const std::vector<ggml_type>& RandomGgufTypes() {
  static const std::vector<ggml_type> types = {
      GGML_TYPE_F32,    GGML_TYPE_F16,     GGML_TYPE_BF16,  GGML_TYPE_Q4_0,    GGML_TYPE_Q4_1,
      GGML_TYPE_Q5_0,   GGML_TYPE_Q5_1,    GGML_TYPE_Q8_0,  GGML_TYPE_Q2_K,    GGML_TYPE_Q3_K,
      GGML_TYPE_Q4_K,   GGML_TYPE_Q5_K,    GGML_TYPE_Q6_K,  GGML_TYPE_IQ2_XXS, GGML_TYPE_IQ2_XS,
      GGML_TYPE_IQ2_S,  GGML_TYPE_IQ3_XXS, GGML_TYPE_IQ3_S, GGML_TYPE_IQ1_S,   GGML_TYPE_IQ1_M,
      GGML_TYPE_IQ4_NL, GGML_TYPE_IQ4_XS,  GGML_TYPE_TQ1_0, GGML_TYPE_TQ2_0,   GGML_TYPE_MXFP4};
  return types;
}

void WriteRandomGguf(const RandomGguf& model, const std::filesystem::path& file) {
  Writer(model, file).Write();
}

}  // namespace pith::testing
