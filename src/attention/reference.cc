// The specifications: double precision, all scores first, then their maximum, then
// the weights; nothing shared with the kernels but the page layout.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "attention/attention.h"
#include "attention/max_probability.h"
#include "cache/hadamard.h"
#include "cache/pq_layout.h"
#include "cache/quantised_layout.h"

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

// Twice is once: the transform is its own inverse, as hadamard.h says.
void RotateBack(double* row, int head_dim) {
  const int dims = HadamardDims(head_dim);
  const std::vector<double> rotated(row, row + head_dim);
  for (int i = 0; i < head_dim; ++i) {
    const int run = i / dims * dims;
    row[i] = 0;
    for (int j = run; j < run + dims; ++j) {
      const bool negative = std::popcount(static_cast<unsigned>((i - run) & (j - run))) % 2 == 1;
      row[i] += negative ? -rotated[j] : rotated[j];
    }
    row[i] /= std::sqrt(dims);
  }
}

// One row of a page's part. [head_dim]
void ReadRow(const RowFormat& format, PagePart which, const std::byte* part, int slot, int head_dim,
             double* row) {
  if (format.id == CodecId::kF16) {
    const auto* rows = reinterpret_cast<const F16*>(part);
    const int block = slot / kBlockEntries;
    for (int d = 0; d < head_dim; ++d) {
      row[d] =
          HalfToDouble(which == PagePart::kKeys
                           ? rows[(block * head_dim + d) * kBlockEntries + slot % kBlockEntries]
                           : rows[slot * head_dim + d]);
    }
    return;
  }
  if (format.n_subspaces > 0) {
    const float* centroids = format.codebook + head_dim * head_dim;
    std::fill_n(row, head_dim, 0.0);
    for (int i = 0; i < head_dim; ++i) {
      const PqPlace place = PqCode(format, slot, i / (head_dim / format.n_subspaces));
      const auto byte = static_cast<uint8_t>(part[place.byte]);
      const int code = format.id == CodecId::kPq8 ? byte : byte >> place.shift & 0xf;
      const double y = centroids[i * PqCentroids(format.id) + code];
      for (int d = 0; d < head_dim; ++d) row[d] += y * format.codebook[d * head_dim + i];
    }
    return;
  }
  const int dims = RowDims(format, head_dim);
  const QuantisedLayout layout = {format.id, which, dims};
  for (int d = 0; d < dims; ++d) {
    F16 scale = 0;
    std::memcpy(&scale, part + layout.Scale(slot, d / kScaleDims), sizeof scale);
    const QuantisedLayout::Place place = layout.Code(slot, d);
    row[d] = HalfToDouble(scale) * layout.CodeAt(part, place);
    if (format.centre != nullptr) row[d] += format.centre[d];
  }
  if (format.id == CodecId::kQ4) RotateBack(row, dims);
  for (int d = 0; format.spread != nullptr && d < dims; ++d) row[d] *= format.spread[d];
  if (format.rank == 0) return;
  const std::vector<double> coefficients(row, row + dims);
  for (int d = 0; d < head_dim; ++d) {
    row[d] = 0;
    for (int i = 0; i < dims; ++i) row[d] += coefficients[i] * format.codebook[d * dims + i];
  }
}

// The entries of a head.
struct Rows {
  std::vector<double> keys;    // [head_dim, n_entries]
  std::vector<double> values;  // [n_entries, head_dim]
};

// All tiers, the exact one last, as the cache counts entries.
Rows ReadHead(const HeadView& head, int head_dim) {
  const int64_t n_entries = head.n_entries();
  Rows rows;
  rows.keys.resize(n_entries * head_dim);
  rows.values.resize(n_entries * head_dim);
  std::vector<double> key(head_dim);
  int64_t entry = 0;
  for (int t = head.n_tiers - 1; t >= 0; --t) {
    const TierView& tier = head.tiers[t];
    for (int64_t i = 0; i < tier.n_entries; ++i, ++entry) {
      const std::byte* page = tier.pages[i / kPageEntries];
      const auto slot = static_cast<int>(i % kPageEntries);
      ReadRow(tier.keys, PagePart::kKeys, page, slot, head_dim, key.data());
      for (int d = 0; d < head_dim; ++d) rows.keys[d * n_entries + entry] = key[d];
      ReadRow(tier.values, PagePart::kValues, page + tier.key_bytes, slot, head_dim,
              &rows.values[entry * head_dim]);
    }
  }
  return rows;
}

// Scores of one query against the first n entries.
std::vector<double> Scores(const float* q, const Rows& rows, int64_t n_entries, int64_t n,
                           int head_dim, double scale) {
  std::vector<double> scores(std::max<int64_t>(n, 0));
  for (int d = 0; d < head_dim; ++d) {
    for (int64_t i = 0; i < n; ++i) scores[i] += q[d] * rows.keys[d * n_entries + i];
  }
  for (double& score : scores) score *= scale;
  return scores;
}

// One query of one head over the first n_visible entries.
void AttendOne(const float* q, const Rows& rows, int64_t n_entries, int64_t n_visible, int head_dim,
               double scale, double* out) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::vector<double> scores = Scores(q, rows, n_entries, n_visible, head_dim, scale);
  double max = -kInfinity;
  for (const double score : scores) max = std::max(max, score);

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
      const int64_t n_visible =
          head.n_entries() - (head.n_chunk > 0 ? head.n_chunk - token - 1 : 0);
      for (int h = g * group; h < (g + 1) * group; ++h) {
        const int64_t row = (int64_t{token} * shape.n_heads + h) * shape.head_dim;
        AttendOne(q + row, rows, head.n_entries(), n_visible, shape.head_dim, shape.scale,
                  out + row);
      }
    }
  }
}

void ReferenceMaxProbability(const AttentionShape& shape, const float* q, int n_tokens,
                             std::span<const JudgedHead> heads, std::span<const float> log2_divisor,
                             double* log2_max) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const int group = shape.n_heads / shape.n_kv_heads;
  for (int g = 0; g < shape.n_kv_heads; ++g) {
    const JudgedHead& head = heads[g];
    const HeadView& view = head.view;
    const Rows rows = ReadHead(view, shape.head_dim);
    for (int token = 0; token < n_tokens; ++token) {
      const int64_t n_visible = view.n_entries() - view.n_chunk + token + 1;
      for (int h = g * group; h < (g + 1) * group; ++h) {
        const float* query = q + (int64_t{token} * shape.n_heads + h) * shape.head_dim;
        const std::vector<double> scores =
            Scores(query, rows, view.n_entries(), view.n_entries(), shape.head_dim, shape.scale);
        std::vector<double> seen(scores.begin() + head.begin, scores.begin() + head.end);
        if (n_visible > head.tail_begin) {
          seen.insert(seen.end(), scores.begin() + head.tail_begin, scores.begin() + n_visible);
        }
        for (size_t i = 0; i < head.extra.rows; ++i) {
          double score = 0;
          for (int d = 0; d < shape.head_dim; ++d) score += double{query[d]} * head.extra.row(i)[d];
          seen.push_back(score * shape.scale);
        }

        double max = -kInfinity;
        for (const double score : seen) max = std::max(max, score);
        double sum = 0;
        for (const double score : seen) sum += score == -kInfinity ? 0.0 : std::exp(score - max);
        double normaliser = (max + std::log(sum)) / std::log(2.0);
        if (!log2_divisor.empty()) normaliser += log2_divisor[token];
        if (!std::isfinite(normaliser)) continue;
        double* out = log2_max + h * (head.end - head.begin);
        for (int64_t i = head.begin; i < head.end; ++i, ++out) {
          *out = std::max(*out, scores[i] / std::log(2.0) - normaliser);
        }
      }
    }
  }
}

}  // namespace pith
