#include "pith/calibration.h"

#include <cmath>
#include <limits>
#include <span>
#include <string_view>
#include <utility>

#include "base/fail.h"
#include "base/printable.h"
#include "base/safetensors.h"
#include "calibrate/codebooks_file.h"
#include "calibrate/keep_curves.h"
#include "calibrate/kvzap_file.h"
#include "calibrate/kvzap_plus_file.h"
#include "calibrate/metadata_keys.h"
#include "calibrate/query_statistics.h"
#include "calibrate/rope_layout.h"

namespace pith {
namespace {

constexpr const char* kTensor = "q_filters";
constexpr std::string_view kFormatPrefix = "pith-calibration-";
constexpr const char* kFormat = "pith-calibration-1";

void ReadFilters(const SafeTensors& tensors, Calibration& calibration) {
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
  calibration.q_filters = FiniteFloats(tensors, kTensor);
}

// Rows of head_dim numbers, half-split, in the RoPE layout of `model`.
std::vector<float> InLayoutOf(const ModelInfo& model, std::vector<float> rows) {
  if (!model.rope_interleaved) return rows;
  const int head_dim = model.head_dim;
  if (head_dim % 2 != 0) {
    Fail(ErrorCode::kMismatch, "a head of {} dimensions cannot be interleaved pairs", head_dim);
  }
  std::vector<float> interleaved(rows.size());
  for (size_t head = 0; head < rows.size(); head += static_cast<size_t>(head_dim)) {
    for (int i = 0; i < head_dim; ++i) {
      interleaved[head + InterleavedIndex(i, head_dim)] = rows[head + i];
    }
  }
  return interleaved;
}

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
  calibration.kvzap = ReadKvzap(tensors);
  calibration.kvzap_plus = ReadKvzapPlus(tensors);
  if (calibration.kvzap) {
    calibration.n_layers = static_cast<int>(calibration.kvzap->layers.size());
    calibration.n_kv_heads = calibration.kvzap->n_kv_heads;
  }
  calibration.queries = ReadQueryStatistics(tensors);
  if (calibration.queries) {
    calibration.n_layers = calibration.queries->n_layers;
    calibration.head_dim = calibration.queries->head_dim;
  }
  calibration.codebooks = ReadCodebooks(tensors);
  if (calibration.codebooks) {
    calibration.n_layers = calibration.codebooks->n_layers;
    calibration.n_kv_heads = calibration.codebooks->n_kv_heads;
    calibration.head_dim = calibration.codebooks->head_dim;
  }
  if (tensors.Find(kTensor) ||
      !(calibration.kvzap || calibration.queries || calibration.codebooks)) {
    ReadFilters(tensors, calibration);
  }
  if (calibration.kvzap) {
    CheckKvzapShape(*calibration.kvzap, calibration.n_layers, calibration.n_kv_heads,
                    tensors.name());
  }
  calibration.curves = ReadKeepCurves(tensors);
  if (calibration.curves && (calibration.curves->n_layers != calibration.n_layers ||
                             calibration.curves->n_kv_heads != calibration.n_kv_heads)) {
    Fail(ErrorCode::kFormat,
         "{}: the loss curves are of {} layers and {} KV heads, all else of {} and {}",
         tensors.name(), calibration.curves->n_layers, calibration.curves->n_kv_heads,
         calibration.n_layers, calibration.n_kv_heads);
  }
  const auto& queries = calibration.queries;
  if (queries &&
      (queries->n_layers != calibration.n_layers || queries->head_dim != calibration.head_dim)) {
    Fail(ErrorCode::kFormat,
         "{}: the queries are of {} layers and {} dimensions, all else of {} and {}",
         tensors.name(), queries->n_layers, queries->head_dim, calibration.n_layers,
         calibration.head_dim);
  }
  const auto& codebooks = calibration.codebooks;
  if (codebooks && (codebooks->n_layers != calibration.n_layers ||
                    codebooks->n_kv_heads != calibration.n_kv_heads ||
                    codebooks->head_dim != calibration.head_dim)) {
    Fail(ErrorCode::kFormat,
         "{}: the codebooks are of {} layers, {} KV heads and {} dimensions, all else of {}, {} "
         "and {}",
         tensors.name(), codebooks->n_layers, codebooks->n_kv_heads, codebooks->head_dim,
         calibration.n_layers, calibration.n_kv_heads, calibration.head_dim);
  }
  return calibration;
}

void Calibration::Save(const std::filesystem::path& file) const {
  std::map<std::string, SafeTensor, std::less<>> tensors;
  if (has_filters()) {
    tensors[kTensor] = {
        "F32", {n_layers, n_kv_heads, head_dim}, std::as_bytes(std::span(q_filters))};
  }
  KvzapTensors surrogate;
  if (kvzap) surrogate.Add(*kvzap, tensors);
  if (kvzap_plus) AddKvzapPlus(*kvzap_plus, surrogate, tensors);
  if (queries) AddQueryStatistics(*queries, tensors);
  if (curves) AddKeepCurves(*curves, tensors);
  if (codebooks) AddCodebooks(*codebooks, surrogate, tensors);
  std::map<std::string, std::string> all = metadata;
  all[kFormatKey] = kFormat;
  WriteSafeTensors(file, tensors, all);
}

void Calibration::CheckFits(const ModelInfo& model) const {
  if (kvzap && (static_cast<int>(kvzap->layers.size()) != model.n_layers ||
                kvzap->n_kv_heads != model.n_kv_heads || kvzap->n_embd != model.n_embd)) {
    Fail(ErrorCode::kMismatch,
         "the surrogate is for {} layers, {} KV heads and hidden states of {}, but the model {} "
         "has {}, {} and {}",
         kvzap->layers.size(), kvzap->n_kv_heads, kvzap->n_embd, model.name, model.n_layers,
         model.n_kv_heads, model.n_embd);
  }
  if (kvzap_plus &&
      (static_cast<int>(kvzap_plus->layers.size()) != model.n_layers ||
       kvzap_plus->n_kv_heads != model.n_kv_heads || kvzap_plus->n_embd != model.n_embd ||
       kvzap_plus->head_dim != model.head_dim)) {
    Fail(ErrorCode::kMismatch,
         "the kvzap+ surrogate is for {} layers, {} KV heads of {} dimensions and hidden states of "
         "{}, but the model {} has {}, {}, {} and {}",
         kvzap_plus->layers.size(), kvzap_plus->n_kv_heads, kvzap_plus->head_dim,
         kvzap_plus->n_embd, model.name, model.n_layers, model.n_kv_heads, model.head_dim,
         model.n_embd);
  }
  if (queries && (queries->n_layers != model.n_layers || queries->n_heads != model.n_heads ||
                  queries->head_dim != model.head_dim)) {
    Fail(ErrorCode::kMismatch,
         "the queries are of {} layers, {} heads and {} dimensions, but the model {} has {}, {} "
         "and {}",
         queries->n_layers, queries->n_heads, queries->head_dim, model.name, model.n_layers,
         model.n_heads, model.head_dim);
  }
  if (curves &&
      (curves->n_layers != model.n_layers || curves->n_kv_heads != model.n_kv_heads ||
       curves->loss.size() != size_t{KeepCurves::kPoints} * model.n_layers * model.n_kv_heads)) {
    Fail(ErrorCode::kMismatch,
         "there are {} losses of {} layers and {} KV heads, but the model {} has {} and {}",
         curves->loss.size(), curves->n_layers, curves->n_kv_heads, model.name, model.n_layers,
         model.n_kv_heads);
  }
  if (codebooks &&
      (codebooks->n_layers != model.n_layers || codebooks->n_kv_heads != model.n_kv_heads ||
       codebooks->head_dim != model.head_dim)) {
    Fail(ErrorCode::kMismatch,
         "the codebooks are of {} layers, {} KV heads and {} dimensions, but the model {} has {}, "
         "{} and {}",
         codebooks->n_layers, codebooks->n_kv_heads, codebooks->head_dim, model.name,
         model.n_layers, model.n_kv_heads, model.head_dim);
  }
  if (has_filters() && (n_layers != model.n_layers || n_kv_heads != model.n_kv_heads ||
                        head_dim != model.head_dim)) {
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
  if (has_filters() && q_filters.size() != expected) {
    Fail(ErrorCode::kInvalidArgument, "the calibration has {} filter values, expected {}",
         q_filters.size(), expected);
  }
}

std::vector<float> Calibration::FiltersFor(const ModelInfo& model) const {
  CheckFits(model);
  return InLayoutOf(model, q_filters);
}

QueryStatistics Calibration::QueriesFor(const ModelInfo& model) const {
  CheckFits(model);
  QueryStatistics of_model = queries.value();
  const auto dim = static_cast<size_t>(model.head_dim);
  const size_t n = size_t{1} * model.n_layers * model.n_heads;
  const bool in_full = of_model.covariance.size() != of_model.mean.size();
  const size_t n_spread = n * dim * (in_full ? dim : 1);
  if (of_model.mean.size() != n * dim || of_model.covariance.size() != n_spread) {
    Fail(ErrorCode::kInvalidArgument,
         "the queries have {} means and {} covariances, expected {} and {}", of_model.mean.size(),
         of_model.covariance.size(), n * dim, n_spread);
  }
  of_model.mean = InLayoutOf(model, std::move(of_model.mean));
  if (!in_full) {
    of_model.covariance = InLayoutOf(model, std::move(of_model.covariance));
    return of_model;
  }
  for (int side = 0; side < 2; ++side) {
    of_model.covariance = InLayoutOf(model, std::move(of_model.covariance));
    for (size_t head = 0; head < n; ++head) {
      float* square = of_model.covariance.data() + head * dim * dim;
      for (size_t i = 0; i < dim; ++i) {
        for (size_t j = 0; j < i; ++j) std::swap(square[i * dim + j], square[j * dim + i]);
      }
    }
  }
  return of_model;
}

PqCodebooks Calibration::CodebooksFor(const ModelInfo& model) const {
  CheckFits(model);
  PqCodebooks of_model = codebooks.value();
  of_model.centre = InLayoutOf(model, std::move(of_model.centre));
  of_model.map = InLayoutOf(model, std::move(of_model.map));
  return of_model;
}

KvzapPlusSurrogate Calibration::KvzapPlusFor(const ModelInfo& model) const {
  CheckFits(model);
  KvzapPlusSurrogate surrogate = kvzap_plus.value();
  for (KvzapPlusLayer& layer : surrogate.layers) {
    layer.key_weight = InLayoutOf(model, layer.key_weight);
  }
  return surrogate;
}

}  // namespace pith
