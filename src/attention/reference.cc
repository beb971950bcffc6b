// The specification of attention: double precision, all scores first, then their maximum, then
// the weights; nothing shared with the kernels but the page layout.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "attention/attention.h"

namespace pith {
namespace {

double HalfToDouble(F16 bits) {
  const int exponent = (bits >> 10) & 0x1f;
  const int mantissa = bits & 0x3ff;
  double magnitude = 0;
  if (exponent == 0x1f) {
    magnitude = mantissa == 0 ? std::numeric_limits<double>::infinity()
                              : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(mantissa, -24);
  } else {
    magnitude = std::ldexp(1024 + mantissa, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// The entries of a head.
struct Rows {
  std::vector<double> keys;    // [head_dim, n_entries]
  std::vector<double> values;  // [n_entries, head_dim]
};

Rows ReadHead(const HeadView& head, int head_dim) {
  Rows rows;
  rows.keys.resize(head.n_entries * head_dim);
  rows.values.resize(head.n_entries * head_dim);
  for (int64_t i = 0; i < head.n_entries; ++i) {
    const std::byte* page = head.pages[i / kPageEntries];
    const auto* keys = reinterpret_cast<const F16*>(page);
    const auto* values = reinterpret_cast<const F16*>(page + F16KeyBytes(head_dim));
    const int64_t block = i % kPageEntries / kBlockEntries;
    for (int d = 0; d < head_dim; ++d) {
      rows.keys[d * head.n_entries + i] =
          HalfToDouble(keys[(block * head_dim + d) * kBlockEntries + i % kBlockEntries]);
      rows.values[i * head_dim + d] = HalfToDouble(values[i % kPageEntries * head_dim + d]);
    }
  }
  return rows;
}

// One query of one head over the first n_visible entries.
void AttendOne(const float* q, const Rows& rows, int64_t n_entries, int64_t n_visible, int head_dim,
               double scale, double* out) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  std::vector<double> scores(std::max<int64_t>(n_visible, 0));
  for (int d = 0; d < head_dim; ++d) {
    for (int64_t i = 0; i < n_visible; ++i) scores[i] += q[d] * rows.keys[d * n_entries + i];
  }
  double max = -kInfinity;
  for (double& score : scores) {
    score *= scale;
    max = std::max(max, score);
  }

  std::fill_n(out, head_dim, 0.0);
  double sum = 0;
  for (int64_t i = 0; i < n_visible; ++i) {
    const double weight = scores[i] == -kInfinity ? 0.0 : std::exp(scores[i] - max);
    sum += weight;
    for (int d = 0; d < head_dim; ++d) out[d] += weight * rows.values[i * head_dim + d];
  }
  if (sum == 0) return;
  for (int d = 0; d < head_dim; ++d) out[d] /= sum;
}

}  // namespace

void ReferenceAttention(const AttentionShape& shape, const float* q, int n_tokens,
                        std::span<const HeadView> heads, double* out) {
  const int group = shape.n_heads / shape.n_kv_heads;
  for (int g = 0; g < shape.n_kv_heads; ++g) {
    const HeadView& head = heads[g];
    const Rows rows = ReadHead(head, shape.head_dim);
    for (int token = 0; token < n_tokens; ++token) {
      const int64_t n_visible = head.n_entries - (head.n_chunk > 0 ? head.n_chunk - token - 1 : 0);
      for (int h = g * group; h < (g + 1) * group; ++h) {
        const int64_t row = (int64_t{token} * shape.n_heads + h) * shape.head_dim;
        AttendOne(q + row, rows, head.n_entries, n_visible, shape.head_dim, shape.scale, out + row);
      }
    }
  }
}

}  // namespace pith
