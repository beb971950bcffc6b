// What a surrogate is trained on: sampled tokens of one prompt, as a safetensors file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/safetensors.h"

namespace pith {

struct KvzapShape {
  int n_layers = 0;
  int n_embd = 0;
  int n_kv_heads = 0;
  int head_dim = 0;  // 0: shards have no entries
};

// Queries nearer than this to an entry do not count as looking at it: the window keeps it from them
// anyway.
inline constexpr int kReceivedDistance = 128;

// What is known of the samples' entries, for kvzap+. All [n_layers, n_kv_heads, n_rows ...].
struct KvzapEntries {
  std::vector<uint16_t> keys;         // [..., head_dim] f16, after RoPE, half-split
  std::vector<float> log_value_norm;  // ln |value|
  std::vector<float> log_repeat;      // ln of the largest attention from a query of the repeat
  // ln of the attention from the average query kReceivedDistance or more later: of the first n_seen
  // rows, which have such queries. [n_layers, n_kv_heads, n_seen]
  std::vector<float> log_received;
};

class KvzapShard {
 public:
  // hidden [n_layers, n_rows, n_embd] f16; log_scores [n_layers, n_kv_heads, n_rows]. `key` says
  // which prompt of which harvest it is. Entries may be left out. Atomic: what is there is whole.
  static void Write(const std::filesystem::path& file, const KvzapShape& shape, int n_rows,
                    std::span<const uint16_t> hidden, std::span<const float> log_scores,
                    const std::string& key, const KvzapEntries& entries = {});
  // Throws Error(kFormat) for another shape, Error(kMismatch) for another key.
  static KvzapShard Open(const std::filesystem::path& file, const KvzapShape& shape,
                         const std::string& key);

  int n_rows() const { return n_rows_; }
  // Rows first..first+n-1 of a layer. out [n, n_embd]
  void Hidden(int layer, int first, int n, float* out) const;
  // Of a layer. [n_kv_heads, n_rows]
  std::span<const float> LogScores(int layer) const;

  // Rows of which everything below is known; 0 in shards without entries.
  int n_seen() const { return n_seen_; }
  // Of the first n rows. out [n, head_dim]
  void Keys(int layer, int kv_head, int n, float* out) const;
  std::span<const float> LogValueNorms(int layer, int kv_head) const;  // [n_rows]
  std::span<const float> LogRepeat(int layer, int kv_head) const;      // [n_rows]
  std::span<const float> LogReceived(int layer, int kv_head) const;    // [n_seen]

 private:
  void OpenEntries();
  KvzapShard(SafeTensors tensors, const KvzapShape& shape)
      : tensors_(std::move(tensors)), shape_(shape) {}

  SafeTensors tensors_;
  KvzapShape shape_;
  int n_rows_ = 0;
  const uint16_t* hidden_ = nullptr;
  const float* log_scores_ = nullptr;
  int n_seen_ = 0;
  const uint16_t* keys_ = nullptr;
  const float* log_value_norm_ = nullptr;
  const float* log_repeat_ = nullptr;
  const float* log_received_ = nullptr;
};

}  // namespace pith
