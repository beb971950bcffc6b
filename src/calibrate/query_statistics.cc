#include "calibrate/query_statistics.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "base/fail.h"
#include "calibrate/kvzap_file.h"
#include "calibrate/rope_layout.h"
#include "scorers/query_moments.h"

namespace pith {
namespace {

// The names of kvpress's published files.
constexpr const char* kMean = "query_mean";
constexpr const char* kCovariance = "query_cov";
constexpr const char* kVariance = "query_var";  // pith's own

constexpr int64_t kMostHeads = int64_t{1} << 16;
constexpr int64_t kMostDims = int64_t{1} << 12;

}  // namespace

QueryStatistics MeasureQueries(const QuerySampler& sampler, const Rope& rope, int sequence_tokens,
                               int n_sinks, bool rope_interleaved, bool in_full) {
  const QueryShape& shape = sampler.shape();
  const auto head_dim = static_cast<size_t>(shape.head_dim);
  std::vector<size_t> rows;
  std::vector<Rotation> rotations;
  for (size_t i = 0; i < sampler.tokens().size(); ++i) {
    const int64_t position = sampler.tokens()[i] % sequence_tokens;
    if (position < n_sinks) continue;
    rows.push_back(i);
    rotations.push_back(rope.At(position));
  }
  if (rows.empty()) {
    Fail(ErrorCode::kInvalidArgument,
         "none of {} sampled queries comes after the first {} tokens of its sequence; sample more",
         sampler.n_rows(), n_sinks);
  }
  QueryStatistics statistics{shape.n_layers, shape.n_heads, shape.head_dim, {}, {}};
  std::vector<float> queries(rows.size() * head_dim);
  std::vector<size_t> from(head_dim);  // in the model's layout
  for (size_t d = 0; d < head_dim; ++d) {
    const int dim = static_cast<int>(d);
    from[d] = rope_interleaved ? static_cast<size_t>(InterleavedIndex(dim, shape.head_dim)) : d;
  }
  for (int layer = 0; layer < shape.n_layers; ++layer) {
    for (int head = 0; head < shape.n_heads; ++head) {
      const MatrixView<const float> sampled = sampler.Rows(layer, head);
      for (size_t i = 0; i < rows.size(); ++i) {
        float* row = queries.data() + i * head_dim;
        std::copy_n(sampled.row(rows[i]), head_dim, row);
        rotations[i].TurnBack(row);
      }
      QueryMoments moments(head_dim);
      moments.Add({queries.data(), rows.size(), head_dim, head_dim});
      const std::vector<float> covariance = moments.Covariance();
      for (size_t d = 0; d < head_dim; ++d) {
        statistics.mean.push_back(moments.mean()[from[d]]);
        for (size_t e = 0; e < head_dim; ++e) {
          const float element = covariance[from[d] * head_dim + from[e]];
          if (!std::isfinite(element)) {
            Fail(ErrorCode::kInvalidArgument,
                 "the queries of layer {}, head {} are not finite numbers", layer, head);
          }
          if (in_full || d == e) statistics.covariance.push_back(element);
        }
      }
    }
  }
  return statistics;
}

std::optional<QueryStatistics> ReadQueryStatistics(const SafeTensors& tensors) {
  const bool in_full = tensors.Find(kCovariance) || !tensors.Find(kVariance);
  const char* spread = in_full ? kCovariance : kVariance;
  if (!tensors.Find(kMean) && !tensors.Find(spread)) return std::nullopt;
  const std::vector<int64_t>& shape = tensors.Get(kMean).shape;
  const std::vector<int64_t>& spread_shape = tensors.Get(spread).shape;
  std::vector<int64_t> expected = shape;
  if (in_full && !shape.empty()) expected.push_back(shape.back());
  const bool fits = shape.size() == 3 && shape[0] >= 1 && shape[0] <= kMostHeads && shape[1] >= 1 &&
                    shape[1] <= kMostHeads && shape[2] >= 1 && shape[2] <= kMostDims &&
                    spread_shape == expected;
  if (!fits) {
    Fail(ErrorCode::kFormat,
         "{}: {} is [{}] and {} is [{}], expected [layers, heads, dimensions] and {}",
         tensors.name(), kMean, fmt::join(shape, ", "), spread, fmt::join(spread_shape, ", "),
         in_full ? "the last once more" : "the same");
  }
  QueryStatistics statistics;
  statistics.n_layers = static_cast<int>(shape[0]);
  statistics.n_heads = static_cast<int>(shape[1]);
  statistics.head_dim = static_cast<int>(shape[2]);
  statistics.mean = FiniteFloats(tensors, kMean);
  statistics.covariance = FiniteFloats(tensors, spread);
  const auto dim = static_cast<size_t>(statistics.head_dim);
  for (size_t row = 0; row < statistics.mean.size(); ++row) {
    const float variance = statistics.covariance[in_full ? row * dim + row % dim : row];
    if (variance < 0) {
      Fail(ErrorCode::kFormat, "{}: a variance in {} is {}, expected 0 or more", tensors.name(),
           spread, variance);
    }
  }
  return statistics;
}

void AddQueryStatistics(const QueryStatistics& statistics,
                        std::map<std::string, SafeTensor, std::less<>>& tensors) {
  const int64_t dim = statistics.head_dim;
  tensors[kMean] = {"F32",
                    {statistics.n_layers, statistics.n_heads, dim},
                    std::as_bytes(std::span(statistics.mean))};
  std::vector<int64_t> shape = tensors[kMean].shape;
  const bool in_full = statistics.covariance.size() != statistics.mean.size();
  if (in_full) shape.push_back(dim);
  tensors[in_full ? kCovariance : kVariance] = {"F32", shape,
                                                std::as_bytes(std::span(statistics.covariance))};
}

}  // namespace pith
