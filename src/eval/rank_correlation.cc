#include "eval/rank_correlation.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

namespace pith {

std::vector<double> Ranks(std::span<const double> values) {
  std::vector<std::pair<double, size_t>> order;
  order.reserve(values.size());
  for (const double value : values) order.emplace_back(value, order.size());
  std::sort(order.begin(), order.end());
  std::vector<double> ranks(values.size());
  for (size_t i = 0; i < order.size();) {
    size_t end = i;
    while (end < order.size() && order[end].first == order[i].first) ++end;
    for (size_t j = i; j < end; ++j) ranks[order[j].second] = static_cast<double>(i + end - 1) / 2;
    i = end;
  }
  return ranks;
}

double RankCorrelation(std::span<const double> ranks_a, std::span<const double> ranks_b) {
  const double mean = (static_cast<double>(ranks_a.size()) - 1) / 2;
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < ranks_a.size(); ++i) {
    ab += (ranks_a[i] - mean) * (ranks_b[i] - mean);
    aa += (ranks_a[i] - mean) * (ranks_a[i] - mean);
    bb += (ranks_b[i] - mean) * (ranks_b[i] - mean);
  }
  return aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : 0;
}

double Spearman(std::span<const double> a, std::span<const double> b) {
  return RankCorrelation(Ranks(a), Ranks(b));
}

}  // namespace pith
