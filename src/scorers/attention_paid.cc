#include "scorers/attention_paid.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "scorers/dense.h"

namespace pith {

void AddAttentionPaid(const Entries& entries, MatrixView<const float> queries,
                      std::span<const int32_t> query_positions, std::span<double> paid) {
  const size_t n = paid.size();
  if (n == 0) return;
  const size_t head_dim = entries.keys.cols;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  std::vector<float> scaled(queries.rows * head_dim);
  for (size_t j = 0; j < queries.rows; ++j) {
    for (size_t d = 0; d < head_dim; ++d) scaled[j * head_dim + d] = queries.row(j)[d] * scale;
  }
  std::vector<float> logits(queries.rows * n);
  Dense(scaled, std::vector<float>(queries.rows)).Apply(entries.keys, logits.data(), 1, n);
  for (size_t j = 0; j < queries.rows; ++j) {
    const std::span<float> row = std::span(logits).subspan(j * n, n);
    for (size_t i = 0; i < n; ++i) {
      if (entries.positions[i] > query_positions[j]) {
        row[i] = -std::numeric_limits<float>::infinity();
      }
    }
    const float largest = *std::max_element(row.begin(), row.end());
    if (largest == -std::numeric_limits<float>::infinity()) continue;
    double sum = 0;
    for (float& logit : row) sum += logit = std::exp(logit - largest);
    for (size_t i = 0; i < n; ++i) paid[i] += row[i] / sum;
  }
}

}  // namespace pith
