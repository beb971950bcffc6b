#include "calibrate/kmeans.h"

#include <algorithm>
#include <limits>
#include <random>

#include "base/fail.h"
#include "cache/nearest_centroid.h"

namespace pith {
namespace {

// Seeds are drawn from so many rows a centroid, spread evenly.
constexpr size_t kSeedRows = 16;

// Every seed after the first is drawn in proportion to weight and squared distance from the seeds
// there are (Arthur and Vassilvitskii, k-means++, 2007).
std::vector<float> Seeds(MatrixView<const float> rows, std::span<const float> weights,
                         size_t n_centroids, uint64_t seed) {
  std::mt19937_64 random(seed);
  const size_t n = std::min(rows.rows, kSeedRows * n_centroids);
  const auto index = [&](size_t i) { return i * rows.rows / n; };
  std::vector<float> columns(n * rows.cols);  // dimension by dimension, for whole vectors of rows
  for (size_t i = 0; i < n; ++i) {
    for (size_t d = 0; d < rows.cols; ++d) columns[d * n + i] = rows.row(index(i))[d];
  }
  std::vector<float> distances(n, std::numeric_limits<float>::max());
  std::vector<float> from_new(n);
  std::vector<double> up_to(n);
  std::vector<float> seeds;
  for (size_t c = 0; c < n_centroids; ++c) {
    double total = 0;
    for (size_t i = 0; i < n; ++i) {
      total += c == 0 ? weights[index(i)] : weights[index(i)] * distances[i];
      up_to[i] = total;
    }
    // The standard distributions are not the same everywhere.
    const double drawn = static_cast<double>(random() >> 11) * 0x1p-53 * total;
    const size_t chosen = std::min<size_t>(
        static_cast<size_t>(std::upper_bound(up_to.begin(), up_to.end(), drawn) - up_to.begin()),
        n - 1);
    const float* row = rows.row(index(chosen));
    seeds.insert(seeds.end(), row, row + rows.cols);
    std::fill(from_new.begin(), from_new.end(), 0.0f);
    for (size_t d = 0; d < rows.cols; ++d) {
      const float* column = columns.data() + d * n;
      for (size_t i = 0; i < n; ++i) from_new[i] += (column[i] - row[d]) * (column[i] - row[d]);
    }
    for (size_t i = 0; i < n; ++i) distances[i] = std::min(distances[i], from_new[i]);
  }
  return seeds;
}

}  // namespace

std::vector<float> WeightedKMeans(MatrixView<const float> rows, std::span<const float> weights,
                                  int n_centroids, int max_rounds, uint64_t seed) {
  if (rows.empty() || weights.size() != rows.rows || n_centroids < 1) {
    Fail(ErrorCode::kInvalidArgument, "{} centroids of {} rows with {} weights make no sense",
         n_centroids, rows.rows, weights.size());
  }
  const size_t n_dims = rows.cols;
  std::vector<float> centroids = Seeds(rows, weights, static_cast<size_t>(n_centroids), seed);
  std::vector<uint8_t> codes(rows.rows);
  std::vector<uint8_t> before;
  std::vector<double> sums;  // [n_centroids, n_dims + 1], the weight last
  for (int round = 0; round < max_rounds; ++round) {
    CentroidSearch(centroids, static_cast<int>(n_dims)).Find(rows, codes);
    if (codes == before) break;
    before = codes;
    sums.assign(static_cast<size_t>(n_centroids) * (n_dims + 1), 0.0);
    for (size_t i = 0; i < rows.rows; ++i) {
      double* sum = sums.data() + codes[i] * (n_dims + 1);
      for (size_t d = 0; d < n_dims; ++d) sum[d] += double{weights[i]} * rows.row(i)[d];
      sum[n_dims] += weights[i];
    }
    for (size_t c = 0; c < static_cast<size_t>(n_centroids); ++c) {
      const double* sum = sums.data() + c * (n_dims + 1);
      if (sum[n_dims] <= 0) continue;
      for (size_t d = 0; d < n_dims; ++d) {
        centroids[c * n_dims + d] = static_cast<float>(sum[d] / sum[n_dims]);
      }
    }
  }
  return centroids;
}

}  // namespace pith
