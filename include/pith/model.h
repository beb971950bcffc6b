// A GGUF model, ready to run.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "pith/text.h"

namespace pith {

struct ModelOptions {
  bool repack = true;  // lay weights out anew where the CPU has faster kernels for it (uses memory)
};

struct ModelInfo {
  std::string name;
  std::string architecture;   // "llama", "qwen2", "qwen3"
  std::string weight_type;    // the type most weights have, e.g. "q4_1"
  std::string fingerprint;    // 16 hex digits: shape, metadata and a sample of every tensor
  std::string chat_template;  // Jinja source, may be empty
  int n_layers = 0;
  int n_embd = 0;
  int n_heads = 0;
  int n_kv_heads = 0;
  int head_dim = 0;
  int n_ff = 0;
  int n_vocab = 0;
  int n_ctx_train = 0;            // the longest sequence the model was trained for
  bool rope_interleaved = false;  // RoPE pairs are (2i, 2i+1) rather than (i, i + head_dim/2)
  uint64_t weight_bytes = 0;
};

// Immutable and cheap to copy; all copies share the weights.
class Model {
 public:
  // Throws Error(kNotFound, kIo, kFormat, kUnsupported).
  static Model Load(const std::filesystem::path& gguf_file, const ModelOptions& options = {});

  const ModelInfo& info() const;
  const Tokenizer& tokenizer() const;

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  explicit Model(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace pith
