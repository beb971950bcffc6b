#include <fmt/format.h>

#include "base/fail.h"
#include "calibrate/metadata_keys.h"
#include "calibrate/query_statistics.h"
#include "calibrate/query_svd.h"
#include "engine/calibration_text.h"
#include "engine/session_impl.h"
#include "model/model_impl.h"

namespace pith {
Calibration Calibrate(const Model& model, std::span<const std::string> texts,
                      const CalibrateOptions& options, const Progress& progress) {
  const ModelInfo& info = model.info();
  if (options.rows_per_head < 1) {
    Fail(ErrorCode::kInvalidArgument, "{} rows a head, expected at least 1", options.rows_per_head);
  }
  const auto sequences = CutSequences(model, texts, options.n_sequences, options.sequence_tokens);
  const int64_t n_tokens = int64_t{options.n_sequences} * options.sequence_tokens;
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
      return !progress || progress(done + n_read, n_tokens);
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
  if (options.queries) {
    calibration.queries = MeasureQueries(sampler, *model.impl().rope, options.sequence_tokens,
                                         Plan().sinks, info.rope_interleaved);
    calibration.metadata[kQueriesSeedKey] = fmt::format("{}", options.seed);
    calibration.metadata[kQueriesRowsKey] = fmt::format("{}", sampler.n_rows());
  }
  return calibration;
}

}  // namespace pith
