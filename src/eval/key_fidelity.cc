#include "eval/key_fidelity.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "eval/rank_correlation.h"

namespace pith {
namespace {

constexpr size_t kTop = 5;

std::vector<double> LogSoftmax(std::span<const double> scores) {
  const double most = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const double score : scores) sum += std::exp(score - most);
  const double log_sum = most + std::log(sum);
  std::vector<double> logs;
  logs.reserve(scores.size());
  for (const double score : scores) logs.push_back(score - log_sum);
  return logs;
}

std::vector<double> Output(std::span<const double> log_weights, MatrixView<const float> values) {
  std::vector<double> output(values.cols);
  for (size_t i = 0; i < values.rows; ++i) {
    const double weight = std::exp(log_weights[i]);
    const float* value = values.row(i);
    for (size_t d = 0; d < values.cols; ++d) output[d] += weight * value[d];
  }
  return output;
}

// Of equal scores the first. Ascending.
std::vector<size_t> Top(std::span<const double> scores) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto end = order.begin() + static_cast<std::ptrdiff_t>(std::min(kTop, order.size()));
  std::partial_sort(order.begin(), end, order.end(), [&](size_t a, size_t b) {
    return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
  });
  order.erase(end, order.end());
  std::sort(order.begin(), order.end());
  return order;
}

double Dot(std::span<const double> a, std::span<const double> b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

}  // namespace

ExactAttention::ExactAttention(std::span<const double> scores, MatrixView<const float> values)
    : values_(values),
      log_weights_(LogSoftmax(scores)),
      ranks_(Ranks(scores)),
      output_(Output(log_weights_, values)),
      top_(Top(scores)) {}

KeyFidelity ExactAttention::Compare(std::span<const double> scores) const {
  const std::vector<double> log_weights = LogSoftmax(scores);
  const std::vector<double> output = Output(log_weights, values_);
  const std::vector<size_t> top = Top(scores);
  std::vector<size_t> common;
  std::set_intersection(top.begin(), top.end(), top_.begin(), top_.end(),
                        std::back_inserter(common));
  KeyFidelity fidelity;
  const double norms = std::sqrt(Dot(output, output) * Dot(output_, output_));
  fidelity.cosine = norms > 0 ? std::clamp(Dot(output, output_) / norms, -1.0, 1.0) : 1;
  for (size_t i = 0; i < log_weights.size(); ++i) {
    fidelity.divergence += std::exp(log_weights_[i]) * (log_weights_[i] - log_weights[i]);
  }
  // Rounding may leave something below zero where both are the same.
  fidelity.divergence = std::max(fidelity.divergence, 0.0);
  fidelity.spearman = RankCorrelation(ranks_, Ranks(scores));
  fidelity.top5 = static_cast<double>(common.size()) / static_cast<double>(top_.size());
  return fidelity;
}

}  // namespace pith
