#include <fmt/format.h>

#include <algorithm>

#include "base/fail.h"
#include "calibrate/metadata_keys.h"
#include "calibrate/query_statistics.h"
#include "calibrate/query_svd.h"
#include "engine/session_impl.h"
#include "model/model_impl.h"

namespace pith {
namespace {

// Sequences of equal length, spread evenly over all texts.
std::vector<std::vector<Token>> CutSequences(const Tokenizer& tokenizer,
                                             std::span<const std::string> texts,
                                             const CalibrateOptions& options) {
  std::vector<Token> corpus;
  for (const std::string& text : texts) {
    const std::vector<Token> tokens = tokenizer.Encode(text);
    corpus.insert(corpus.end(), tokens.begin(), tokens.end());
  }
  const size_t n_bos = tokenizer.add_bos() && tokenizer.bos() >= 0 ? 1 : 0;
  const size_t length = static_cast<size_t>(options.sequence_tokens) - n_bos;
  const size_t n = static_cast<size_t>(options.n_sequences);
  if (corpus.size() < n * length) {
    Fail(ErrorCode::kInvalidArgument,
         "the corpus has {} tokens, but {} sequences of {} take {}; add texts or ask for fewer",
         corpus.size(), n, length, n * length);
  }
  std::vector<std::vector<Token>> sequences(n);
  for (size_t i = 0; i < n; ++i) {
    const size_t begin = n == 1 ? 0 : (corpus.size() - length) * i / (n - 1);
    if (n_bos) sequences[i].push_back(tokenizer.bos());
    sequences[i].insert(sequences[i].end(), corpus.begin() + static_cast<int64_t>(begin),
                        corpus.begin() + static_cast<int64_t>(begin + length));
  }
  return sequences;
}

void CheckOptions(const CalibrateOptions& options, const ModelInfo& model) {
  if (options.n_sequences < 1 || options.rows_per_head < 1) {
    Fail(ErrorCode::kInvalidArgument,
         "{} sequences and {} rows a head, expected at least 1 of each", options.n_sequences,
         options.rows_per_head);
  }
  if (options.sequence_tokens < 2 || options.sequence_tokens > model.n_ctx_train) {
    Fail(ErrorCode::kInvalidArgument,
         "sequences of {} tokens, expected 2 to the model's context of {}", options.sequence_tokens,
         model.n_ctx_train);
  }
}

}  // namespace

Calibration Calibrate(const Model& model, std::span<const std::string> texts,
                      const CalibrateOptions& options, const Progress& progress) {
  const ModelInfo& info = model.info();
  CheckOptions(options, info);
  const auto sequences = CutSequences(model.tokenizer(), texts, options);
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
