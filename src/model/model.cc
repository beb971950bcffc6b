#include "model/model_impl.h"

#include <algorithm>

#include <fmt/format.h>
#include <ggml.h>
#include <xxhash.h>

#include "base/fail.h"
#include "text/tokenizer.h"

namespace pith {
namespace {

// Shape and a sample of every tensor: cheap for any size, different for any other model, the same
// when only names, licences or chat templates change.
std::string Fingerprint(const GgufFile& file, const HyperParams& h) {
  constexpr size_t kSampleBytes = 4096;
  XXH3_state_t* state = XXH3_createState();
  XXH3_64bits_reset(state);
  const auto update = [&](const void* data, size_t size) { XXH3_64bits_update(state, data, size); };
  const std::string shape =
      fmt::format("{} {} {} {} {} {} {} {} {} {} {}", h.architecture, h.n_layers, h.n_embd,
                  h.n_heads, h.n_kv_heads, h.head_dim, h.n_ff, h.n_vocab, h.n_rot, h.rope_freq_base,
                  h.rope_scaling.freq_scale);
  update(shape.data(), shape.size());
  for (ggml_tensor* t = ggml_get_first_tensor(file.tensors()); t;
       t = ggml_get_next_tensor(file.tensors(), t)) {
    const std::string_view name = ggml_get_name(t);
    update(name.data(), name.size());
    update(&t->type, sizeof(t->type));
    const auto bytes = file.TensorBytes(*t);
    const size_t n = std::min(kSampleBytes, bytes.size());
    update(bytes.data() + (bytes.size() - n) / 2, n);
  }
  const XXH64_hash_t hash = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  return fmt::format("{:016x}", hash);
}

}  // namespace

Model Model::Load(const std::filesystem::path& gguf_file, const ModelOptions& options) {
  GgufFile file = GgufFile::Open(gguf_file);
  auto impl = std::make_shared<Impl>();
  impl->hparams = ReadHyperParams(file);
  impl->tokenizer = MakeTokenizer(file);
  const HyperParams& h = impl->hparams;
  if (impl->tokenizer->n_vocab() != h.n_vocab) {
    Fail(ErrorCode::kFormat, "{}: {} tokens in the vocabulary, but {} embeddings", file.name(),
         impl->tokenizer->n_vocab(), h.n_vocab);
  }
  ModelInfo& info = impl->info;
  info.name = h.name;
  info.architecture = h.architecture;
  info.fingerprint = Fingerprint(file, h);
  info.chat_template = file.FindString("tokenizer.chat_template").value_or("");
  info.n_layers = h.n_layers;
  info.n_embd = h.n_embd;
  info.n_heads = h.n_heads;
  info.n_kv_heads = h.n_kv_heads;
  info.head_dim = h.head_dim;
  info.n_ff = h.n_ff;
  info.n_vocab = h.n_vocab;
  info.n_ctx_train = h.n_ctx_train;
  info.rope_interleaved = h.rope_interleaved;
  impl->weights = std::make_unique<Weights>(std::move(file), h, options.repack);
  impl->output_norms = std::make_unique<OutputNorms>(impl->weights->file(), h);
  std::span<const float> rope_factors;
  if (const ggml_tensor* factors = impl->weights->rope_factors) {
    rope_factors = {static_cast<const float*>(factors->data), static_cast<size_t>(h.n_rot / 2)};
  }
  impl->rope = std::make_unique<Rope>(h, rope_factors);
  info.weight_type = impl->weights->main_type();
  info.weight_bytes = impl->weights->bytes();
  return Model(std::move(impl));
}

const ModelInfo& Model::info() const { return impl_->info; }

const Tokenizer& Model::tokenizer() const { return *impl_->tokenizer; }

}  // namespace pith
