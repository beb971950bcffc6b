#include <fmt/format.h>

#include "base/fail.h"
#include "calibrate/metadata_keys.h"
#include "calibrate/query_statistics.h"
#include "calibrate/query_svd.h"
#include "engine/calibrate_curves.h"
#include "engine/calibration_text.h"
#include "engine/session_impl.h"
#include "model/model_impl.h"

namespace pith {
namespace {

// Of a sequence, so that there are entries to choose from and tokens to ask for them.
constexpr int kLeastTokens = 16;

}  // namespace

Calibration Calibrate(const Model& model, std::span<const std::string> texts,
                      const CalibrateOptions& options, const Progress& progress) {
  const ModelInfo& info = model.info();
  if (options.rows_per_head < 1 || options.n_curves < 1) {
    Fail(ErrorCode::kInvalidArgument,
         "{} rows a head and {} sequences for loss curves, expected at least 1 of each",
         options.rows_per_head, options.n_curves);
  }
  if (options.sequence_tokens < kLeastTokens) {
    Fail(ErrorCode::kInvalidArgument, "sequences of {} tokens, expected {} or more",
         options.sequence_tokens, kLeastTokens);
  }
  const auto sequences = CutSequences(model, texts, options.n_sequences, options.sequence_tokens);
  const int64_t n_tokens = int64_t{options.n_sequences} * options.sequence_tokens;
  const int n_curves = std::min(options.n_curves, options.n_sequences);
  const int64_t n_all = n_tokens + int64_t{n_curves} * options.sequence_tokens;
  QuerySampler sampler({info.n_layers, info.n_heads, info.n_kv_heads, info.head_dim}, n_tokens,
                       options.rows_per_head, options.seed);
  const size_t row = size_t{1} * info.n_heads * info.head_dim;
  int64_t done = 0;
  for (const std::vector<Token>& sequence : sequences) {
    Session session(model, {}, {.n_threads = options.n_threads});
    session.impl().SetQueryTap([&](int layer, int32_t position, int n, const float* q) {
      sampler.Add(layer, done + position, {q, row * static_cast<size_t>(n)});
    });
    ReadOptions read;
    read.progress = [&](int64_t n_read, int64_t) {
      return !progress || progress(done + n_read, n_all);
    };
    session.Read(sequence, read);
    done += options.sequence_tokens;
  }
  Calibration calibration;
  calibration.n_layers = info.n_layers;
  calibration.n_kv_heads = info.n_kv_heads;
  calibration.head_dim = info.head_dim;
  calibration.q_filters = QueryFilters(sampler, info.rope_interleaved);
  calibration.metadata = {
      {kModelKey, info.name},
      {kFingerprintKey, info.fingerprint},
      {kSequencesKey, fmt::format("{}", options.n_sequences)},
      {kSequenceTokensKey, fmt::format("{}", options.sequence_tokens)},
      {kRowsKey, fmt::format("{}", sampler.n_rows())},
      {kSeedKey, fmt::format("{}", options.seed)},
  };
  calibration.queries = MeasureQueries(sampler, *model.impl().rope, options.sequence_tokens,
                                       Plan().sinks, info.rope_interleaved, options.covariance);
  std::vector<std::vector<Token>> measured;
  for (int i = 0; i < n_curves; ++i) {
    measured.push_back(sequences[static_cast<size_t>(i) * sequences.size() / n_curves]);
  }
  calibration.curves = MeasureKeepCurves(
      model, measured, std::make_shared<const Calibration>(calibration), options.n_threads,
      [&](int64_t n_read, int64_t) { return !progress || progress(n_tokens + n_read, n_all); });
  calibration.metadata[kCurvesSequencesKey] = fmt::format("{}", n_curves);
  return calibration;
}

}  // namespace pith
