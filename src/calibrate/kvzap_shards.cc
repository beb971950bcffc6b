#include "calibrate/kvzap_shards.h"

#include <ggml-cpu.h>

#include "base/fail.h"
#include "base/printable.h"

namespace pith {
namespace {

constexpr const char* kHidden = "hidden";
constexpr const char* kLogScores = "log_scores";
constexpr const char* kKey = "key";

}  // namespace

void KvzapShard::Write(const std::filesystem::path& file, const KvzapShape& shape, int n_rows,
                       std::span<const uint16_t> hidden, std::span<const float> log_scores,
                       const std::string& key) {
  WriteSafeTensors(
      file,
      {{kHidden, {"F16", {shape.n_layers, n_rows, shape.n_embd}, std::as_bytes(hidden)}},
       {kLogScores,
        {"F32", {shape.n_layers, shape.n_kv_heads, n_rows}, std::as_bytes(log_scores)}}},
      {{kKey, key}});
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
  return shard;
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
