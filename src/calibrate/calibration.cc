#include "pith/calibration.h"

#include <cmath>
#include <limits>
#include <span>
#include <string_view>

#include "base/fail.h"
#include "base/printable.h"
#include "base/safetensors.h"
#include "calibrate/metadata_keys.h"
#include "calibrate/rope_layout.h"

namespace pith {
namespace {

constexpr const char* kTensor = "q_filters";
constexpr std::string_view kFormatPrefix = "pith-calibration-";
constexpr const char* kFormat = "pith-calibration-1";

}  // namespace

Calibration Calibration::Load(const std::filesystem::path& file) {
  const SafeTensors tensors = SafeTensors::Open(file);
  Calibration calibration;
  calibration.metadata = tensors.metadata();
  // Published files have another format there, or none.
  const auto format = calibration.metadata.find(kFormatKey);
  if (format != calibration.metadata.end() && format->second.starts_with(kFormatPrefix) &&
      format->second != kFormat) {
    Fail(ErrorCode::kUnsupported, "{}: is of the format {}, expected {}", tensors.name(),
         Printable(format->second), kFormat);
  }
  const SafeTensor& filters = tensors.Get(kTensor);
  if (filters.shape.size() != 3) {
    Fail(ErrorCode::kFormat,
         "{}: {} has {} dimensions, expected 3: layers, KV heads, head dimensions", tensors.name(),
         kTensor, filters.shape.size());
  }
  for (const int64_t dim : filters.shape) {
    if (dim < 1 || dim > std::numeric_limits<int>::max()) {
      Fail(ErrorCode::kFormat, "{}: {} has a dimension of {}, expected at least 1", tensors.name(),
           kTensor, dim);
    }
  }
  calibration.n_layers = static_cast<int>(filters.shape[0]);
  calibration.n_kv_heads = static_cast<int>(filters.shape[1]);
  calibration.head_dim = static_cast<int>(filters.shape[2]);
  calibration.q_filters = filters.ToFloats();
  for (size_t i = 0; i < calibration.q_filters.size(); ++i) {
    if (!std::isfinite(calibration.q_filters[i])) {
      Fail(ErrorCode::kFormat, "{}: element {} of {} is {}, expected a finite number",
           tensors.name(), i, kTensor, calibration.q_filters[i]);
    }
  }
  return calibration;
}

void Calibration::Save(const std::filesystem::path& file) const {
  SafeTensor tensor;
  tensor.dtype = "F32";
  tensor.shape = {n_layers, n_kv_heads, head_dim};
  tensor.bytes = std::as_bytes(std::span(q_filters));
  std::map<std::string, std::string> all = metadata;
  all[kFormatKey] = kFormat;
  WriteSafeTensors(file, {{kTensor, tensor}}, all);
}

void Calibration::CheckFits(const ModelInfo& model) const {
  if (n_layers != model.n_layers || n_kv_heads != model.n_kv_heads || head_dim != model.head_dim) {
    Fail(
        ErrorCode::kMismatch,
        "the calibration is for {} layers, {} KV heads and {} dimensions, but the model {} has {}, "
        "{} and {}",
        n_layers, n_kv_heads, head_dim, model.name, model.n_layers, model.n_kv_heads,
        model.head_dim);
  }
  const auto fingerprint = metadata.find(kFingerprintKey);
  if (fingerprint != metadata.end() && fingerprint->second != model.fingerprint) {
    const auto name = metadata.find(kModelKey);
    Fail(ErrorCode::kMismatch,
         "the calibration is of another model: {} with fingerprint {}, but this is {} with {}",
         name == metadata.end() ? "one" : Printable(name->second), Printable(fingerprint->second),
         model.name, model.fingerprint);
  }
  const size_t expected = static_cast<size_t>(n_layers) * n_kv_heads * head_dim;
  if (q_filters.size() != expected) {
    Fail(ErrorCode::kInvalidArgument, "the calibration has {} filter values, expected {}",
         q_filters.size(), expected);
  }
}

std::vector<float> Calibration::FiltersFor(const ModelInfo& model) const {
  CheckFits(model);
  if (!model.rope_interleaved) return q_filters;
  if (head_dim % 2 != 0) {
    Fail(ErrorCode::kMismatch, "a head of {} dimensions cannot be interleaved pairs", head_dim);
  }
  std::vector<float> filters(q_filters.size());
  for (size_t head = 0; head < filters.size(); head += head_dim) {
    for (int i = 0; i < head_dim; ++i) {
      filters[head + InterleavedIndex(i, head_dim)] = q_filters[head + i];
    }
  }
  return filters;
}

}  // namespace pith
