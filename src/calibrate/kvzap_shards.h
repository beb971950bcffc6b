// What a surrogate is trained on: sampled tokens of one prompt, as a safetensors file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "base/safetensors.h"

namespace pith {

struct KvzapShape {
  int n_layers = 0;
  int n_embd = 0;
  int n_kv_heads = 0;
};

class KvzapShard {
 public:
  // hidden [n_layers, n_rows, n_embd] f16; log_scores [n_layers, n_kv_heads, n_rows]. `key` says
  // which prompt of which harvest it is. Atomic: what is there is whole.
  static void Write(const std::filesystem::path& file, const KvzapShape& shape, int n_rows,
                    std::span<const uint16_t> hidden, std::span<const float> log_scores,
                    const std::string& key);
  // Throws Error(kFormat) for another shape, Error(kMismatch) for another key.
  static KvzapShard Open(const std::filesystem::path& file, const KvzapShape& shape,
                         const std::string& key);

  int n_rows() const { return n_rows_; }
  // Rows first..first+n-1 of a layer. out [n, n_embd]
  void Hidden(int layer, int first, int n, float* out) const;
  // Of a layer. [n_kv_heads, n_rows]
  std::span<const float> LogScores(int layer) const;

 private:
  KvzapShard(SafeTensors tensors, const KvzapShape& shape)
      : tensors_(std::move(tensors)), shape_(shape) {}

  SafeTensors tensors_;
  KvzapShape shape_;
  int n_rows_ = 0;
  const uint16_t* hidden_ = nullptr;
  const float* log_scores_ = nullptr;
};

}  // namespace pith
