#include "eval/key_fidelity.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <utility>

#include "eval/rank_correlation.h"

namespace pith {
namespace {

constexpr size_t kTop = 5;

struct Softmax {
  explicit Softmax(std::span<const double> scores) : weights(scores.begin(), scores.end()) {
    const double most = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double& weight : weights) sum += weight = std::exp(weight - most);
    for (double& weight : weights) weight /= sum;
    log_sum = most + std::log(sum);
  }

  std::vector<double> weights;
  double log_sum;
};

std::vector<double> Output(std::span<const double> weights, MatrixView<const float> values) {
  std::vector<double> output(values.cols);
  for (size_t i = 0; i < values.rows; ++i) {
    const float* value = values.row(i);
    for (size_t d = 0; d < values.cols; ++d) output[d] += weights[i] * value[d];
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
      scores_(scores.begin(), scores.end()),
      ranks_(Ranks(scores)),
      top_(Top(scores)) {
  Softmax softmax(scores);
  log_sum_ = softmax.log_sum;
  weights_ = std::move(softmax.weights);
  output_ = Output(weights_, values);
}

KeyFidelity ExactAttention::Compare(std::span<const double> scores) const {
  const Softmax softmax(scores);
  const std::vector<double> output = Output(softmax.weights, values_);
  const std::vector<size_t> top = Top(scores);
  std::vector<size_t> common;
  std::set_intersection(top.begin(), top.end(), top_.begin(), top_.end(),
                        std::back_inserter(common));
  KeyFidelity fidelity;
  const double norms = std::sqrt(Dot(output, output) * Dot(output_, output_));
  fidelity.cosine = norms > 0 ? std::clamp(Dot(output, output_) / norms, -1.0, 1.0) : 1;
  for (size_t i = 0; i < scores.size(); ++i) {
    fidelity.divergence += weights_[i] * ((scores_[i] - log_sum_) - (scores[i] - softmax.log_sum));
  }
  // Rounding may leave something below zero where both are the same.
  fidelity.divergence = std::max(fidelity.divergence, 0.0);
  fidelity.spearman = RankCorrelation(ranks_, Ranks(scores));
  fidelity.top5 = static_cast<double>(common.size()) / static_cast<double>(top_.size());
  return fidelity;
}

}  // namespace pith
