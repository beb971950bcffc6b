#include "calibrate/kvzap_shards.h"

#include <ggml-cpu.h>

#include <map>

#include "base/fail.h"
#include "base/printable.h"

namespace pith {
namespace {

constexpr const char* kHidden = "hidden";
constexpr const char* kLogScores = "log_scores";
constexpr const char* kKey = "key";
constexpr const char* kKeys = "keys";
constexpr const char* kLogValueNorm = "log_value_norm";
constexpr const char* kLogRepeat = "log_repeat";
constexpr const char* kLogReceived = "log_received";

}  // namespace

void KvzapShard::Write(const std::filesystem::path& file, const KvzapShape& shape, int n_rows,
                       std::span<const uint16_t> hidden, std::span<const float> log_scores,
                       const std::string& key, const KvzapEntries& entries) {
  std::map<std::string, SafeTensor, std::less<>> tensors;
  tensors[kHidden] = {"F16", {shape.n_layers, n_rows, shape.n_embd}, std::as_bytes(hidden)};
  const auto add = [&](const char* name, std::span<const float> values) {
    const int64_t n_columns =
        static_cast<int64_t>(values.size()) / shape.n_layers / shape.n_kv_heads;
    tensors[name] = {"F32", {shape.n_layers, shape.n_kv_heads, n_columns}, std::as_bytes(values)};
  };
  add(kLogScores, log_scores);
  if (!entries.log_received.empty()) {
    tensors[kKeys] = {"F16",
                      {shape.n_layers, shape.n_kv_heads, n_rows, shape.head_dim},
                      std::as_bytes(std::span(entries.keys))};
    add(kLogValueNorm, entries.log_value_norm);
    add(kLogRepeat, entries.log_repeat);
    add(kLogReceived, entries.log_received);
  }
  WriteSafeTensors(file, tensors, {{kKey, key}});
}

KvzapShard KvzapShard::Open(const std::filesystem::path& file, const KvzapShape& shape,
                            const std::string& key) {
  KvzapShard shard(SafeTensors::Open(file), shape);
  const SafeTensors& tensors = shard.tensors_;
  const SafeTensor& hidden = tensors.Get(kHidden);
  const SafeTensor& scores = tensors.Get(kLogScores);
  const int64_t n = hidden.shape.size() == 3 ? hidden.shape[1] : 0;
  if (n < 1 || hidden.dtype != "F16" || scores.dtype != "F32" ||
      hidden.shape != std::vector<int64_t>{shape.n_layers, n, shape.n_embd} ||
      scores.shape != std::vector<int64_t>{shape.n_layers, shape.n_kv_heads, n}) {
    Fail(ErrorCode::kFormat, "{}: is not a shard of {} layers, hidden states of {} and {} KV heads",
         tensors.name(), shape.n_layers, shape.n_embd, shape.n_kv_heads);
  }
  const auto found = tensors.metadata().find(kKey);
  if (found == tensors.metadata().end() || found->second != key) {
    Fail(ErrorCode::kMismatch, "{}: is of another harvest ({}), expected {}", tensors.name(),
         found == tensors.metadata().end() ? "no key" : Printable(found->second), key);
  }
  shard.n_rows_ = static_cast<int>(n);
  shard.hidden_ = reinterpret_cast<const uint16_t*>(hidden.bytes.data());
  shard.log_scores_ = reinterpret_cast<const float*>(scores.bytes.data());
  if (shape.head_dim > 0 && tensors.Find(kLogReceived)) shard.OpenEntries();
  return shard;
}

void KvzapShard::OpenEntries() {
  const SafeTensor& received = tensors_.Get(kLogReceived);
  const int64_t n_seen = received.shape.size() == 3 ? received.shape[2] : 0;
  if (n_seen < 1 || n_seen > n_rows_) {
    Fail(ErrorCode::kFormat, "{}: {} is not of 1 to {} rows", tensors_.name(), kLogReceived,
         n_rows_);
  }
  const auto floats = [&](const char* name, int64_t n) {
    const SafeTensor& tensor = tensors_.Get(name);
    if (tensor.dtype != "F32" ||
        tensor.shape != std::vector<int64_t>{shape_.n_layers, shape_.n_kv_heads, n}) {
      Fail(ErrorCode::kFormat, "{}: {} is not [{}, {}, {}] F32", tensors_.name(), name,
           shape_.n_layers, shape_.n_kv_heads, n);
    }
    return reinterpret_cast<const float*>(tensor.bytes.data());
  };
  const SafeTensor& keys = tensors_.Get(kKeys);
  if (keys.dtype != "F16" || keys.shape != std::vector<int64_t>{shape_.n_layers, shape_.n_kv_heads,
                                                                n_rows_, shape_.head_dim}) {
    Fail(ErrorCode::kFormat, "{}: {} is not [{}, {}, {}, {}] F16", tensors_.name(), kKeys,
         shape_.n_layers, shape_.n_kv_heads, n_rows_, shape_.head_dim);
  }
  keys_ = reinterpret_cast<const uint16_t*>(keys.bytes.data());
  log_value_norm_ = floats(kLogValueNorm, n_rows_);
  log_repeat_ = floats(kLogRepeat, n_rows_);
  log_received_ = floats(kLogReceived, n_seen);
  n_seen_ = static_cast<int>(n_seen);
}

void KvzapShard::Keys(int layer, int kv_head, int n, float* out) const {
  const int64_t row = (int64_t{layer} * shape_.n_kv_heads + kv_head) * n_rows_;
  ggml_cpu_fp16_to_fp32(keys_ + row * shape_.head_dim, out, int64_t{n} * shape_.head_dim);
}

std::span<const float> KvzapShard::LogValueNorms(int layer, int kv_head) const {
  const size_t n = static_cast<size_t>(n_rows_);
  return {log_value_norm_ + (size_t{1} * layer * shape_.n_kv_heads + kv_head) * n, n};
}

std::span<const float> KvzapShard::LogRepeat(int layer, int kv_head) const {
  const size_t n = static_cast<size_t>(n_rows_);
  return {log_repeat_ + (size_t{1} * layer * shape_.n_kv_heads + kv_head) * n, n};
}

std::span<const float> KvzapShard::LogReceived(int layer, int kv_head) const {
  const size_t n = static_cast<size_t>(n_seen_);
  return {log_received_ + (size_t{1} * layer * shape_.n_kv_heads + kv_head) * n, n};
}

void KvzapShard::Hidden(int layer, int first, int n, float* out) const {
  const int64_t row = int64_t{layer} * n_rows_ + first;
  ggml_cpu_fp16_to_fp32(hidden_ + row * shape_.n_embd, out, int64_t{n} * shape_.n_embd);
}

std::span<const float> KvzapShard::LogScores(int layer) const {
  const size_t n = size_t{1} * shape_.n_kv_heads * n_rows_;
  return {log_scores_ + layer * n, n};
}

}  // namespace pith
