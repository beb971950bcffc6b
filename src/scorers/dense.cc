// Compiled once per SIMD level, like the kernels of attention, whose levels these are.
#include "scorers/dense.h"

#define HWY_DISABLED_TARGETS \
  (HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "scorers/dense.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h, which includes this file again for every level.
#include "attention/simd-inl.h"
#include "hwy/highway.h"

#ifndef PITH_SCORERS_DENSE_JOB_
#define PITH_SCORERS_DENSE_JOB_
namespace pith {

// A few weight rows of at most this length stay in the first level of the cache while they are
// multiplied with a block of tokens, which stays in the second.
inline constexpr size_t kMaxDepth = 640;
inline constexpr size_t kWeightRows = 8;
inline constexpr size_t kTokenBlock = 128;
inline constexpr size_t kTileTokens = 3;  // x 4 weight rows: 12 sums, 3 tokens and 1 weight
inline constexpr size_t kMultiple = 16;   // elements of a weight row; of the largest vector

struct DenseJob {
  MatrixView<const float> rows;
  size_t n_out = 0;
  size_t n_in = 0;
  size_t stride = 0;
  const uint16_t* halves = nullptr;  // or null, and `floats` is not
  const float* floats = nullptr;
  const float* bias = nullptr;
  float* out = nullptr;
  size_t row_step = 0;
  size_t out_step = 0;
  float* packed = nullptr;  // [kTokenBlock, kMaxDepth], where tokens are used in parts, many times
};

inline size_t RoundUp(size_t n) { return (n + kMultiple - 1) / kMultiple * kMultiple; }

// Few tokens are multiplied with the weights as they are stored.
inline bool IsFew(size_t n_rows) { return n_rows <= kTileTokens; }

}  // namespace pith
#endif  // PITH_SCORERS_DENSE_JOB_

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {

HWY_INLINE hn::Vec<FloatTag> LoadWeight(const float* from) { return hn::LoadU(FloatTag(), from); }
HWY_INLINE hn::Vec<FloatTag> LoadWeight(const uint16_t* from) { return LoadF16(FloatTag(), from); }

// out[c][r] (+)= weights[c] . rows[r] over `depth` elements, for up to kCols weight rows, of which
// the last is repeated where there are fewer. Adds to `bias` where it is given, otherwise to out.
template <size_t kRows, size_t kCols, typename Weight>
HWY_INLINE void DotTile(const float* HWY_RESTRICT rows, size_t row_stride,
                        const Weight* HWY_RESTRICT weights, size_t weight_stride, size_t n_cols,
                        size_t depth, const float* bias, float* out, size_t row_step,
                        size_t out_step) {
  const FloatTag d;
  using V = hn::Vec<FloatTag>;
  V sums[kRows][kCols];
  const Weight* from[kCols];
  PITH_UNROLL for (size_t c = 0; c < kCols; ++c) {
    from[c] = weights + std::min(c, n_cols - 1) * weight_stride;
    PITH_UNROLL for (size_t r = 0; r < kRows; ++r) sums[r][c] = hn::Zero(d);
  }
  constexpr size_t kStep = kLanes;
  const size_t whole = depth / kStep * kStep;
  for (size_t i = 0; i < whole; i += kStep) {
    V token[kRows];
    PITH_UNROLL for (size_t r = 0; r < kRows; ++r) {
      token[r] = hn::LoadU(d, rows + r * row_stride + i);
    }
    PITH_UNROLL for (size_t c = 0; c < kCols; ++c) {
      const V weight = LoadWeight(from[c] + i);
      PITH_UNROLL for (size_t r = 0; r < kRows; ++r) {
        sums[r][c] = hn::MulAdd(token[r], weight, sums[r][c]);
      }
    }
  }
  if (whole < depth) {  // weight rows go on with zeros
    PITH_UNROLL for (size_t r = 0; r < kRows; ++r) {
      float rest[kStep] = {};
      std::copy_n(rows + r * row_stride + whole, depth - whole, rest);
      const V token = hn::LoadU(d, rest);
      PITH_UNROLL for (size_t c = 0; c < kCols; ++c) {
        sums[r][c] = hn::MulAdd(token, LoadWeight(from[c] + whole), sums[r][c]);
      }
    }
  }
  PITH_UNROLL for (size_t c = 0; c < kCols; ++c) {
    if (c >= n_cols) break;
    PITH_UNROLL for (size_t r = 0; r < kRows; ++r) {
      float& target = out[c * out_step + r * row_step];
      const float sum = hn::GetLane(hn::SumOfLanes(d, sums[r][c]));
      target = (bias != nullptr ? bias[c] : target) + sum;
    }
  }
}

// Elements first_in..first_in+depth-1 of `n` rows with those of up to kWeightRows weight rows.
template <typename Weight>
HWY_INLINE void MultiplyBlock(const DenseJob& job, const float* HWY_RESTRICT rows,
                              size_t row_stride, size_t n, size_t first_row,
                              const Weight* HWY_RESTRICT weights, size_t weight_stride,
                              size_t first_out, size_t n_out, size_t first_in, size_t depth) {
  const float* bias = first_in == 0 ? job.bias + first_out : nullptr;
  float* out = job.out + first_out * job.out_step + first_row * job.row_step;
  size_t row = 0;
  for (; row + kTileTokens <= n; row += kTileTokens) {
    for (size_t o = 0; o < n_out; o += 4) {
      DotTile<kTileTokens, 4>(
          rows + row * row_stride, row_stride, weights + o * weight_stride, weight_stride,
          std::min<size_t>(4, n_out - o), depth, bias != nullptr ? bias + o : nullptr,
          out + o * job.out_step + row * job.row_step, job.row_step, job.out_step);
    }
  }
  for (; row < n; ++row) {  // eight sums that do not wait for one another
    DotTile<1, kWeightRows>(rows + row * row_stride, row_stride, weights, weight_stride, n_out,
                            depth, bias, out + row * job.row_step, job.row_step, job.out_step);
  }
}

// A part of all rows' elements for a block of tokens.
void MultiplyPart(const DenseJob& job, size_t first_row, size_t n, size_t first_in, size_t depth) {
  const FloatTag d;
  const float* rows = job.rows.row(first_row) + first_in;
  size_t row_stride = job.rows.stride;
  const size_t width = RoundUp(depth);
  if (job.packed != nullptr) {  // rows far apart would fight for the same places of the cache
    for (size_t r = 0; r < n; ++r)
      std::copy_n(rows + r * row_stride, depth, job.packed + r * width);
    rows = job.packed;
    row_stride = width;
  }
  HWY_ALIGN float converted[kWeightRows * kMaxDepth];
  for (size_t first_out = 0; first_out < job.n_out; first_out += kWeightRows) {
    const size_t n_out = std::min(kWeightRows, job.n_out - first_out);
    const size_t at = first_out * job.stride + first_in;
    if (job.halves == nullptr) {
      MultiplyBlock(job, rows, row_stride, n, first_row, job.floats + at, job.stride, first_out,
                    n_out, first_in, depth);
    } else if (IsFew(n)) {
      MultiplyBlock(job, rows, row_stride, n, first_row, job.halves + at, job.stride, first_out,
                    n_out, first_in, depth);
    } else {
      for (size_t o = 0; o < n_out; ++o) {
        for (size_t i = 0; i < width; i += kLanes) {
          hn::Store(LoadF16(d, job.halves + at + o * job.stride + i), d, converted + o * width + i);
        }
      }
      MultiplyBlock(job, rows, row_stride, n, first_row, converted, width, first_out, n_out,
                    first_in, depth);
    }
  }
}

void ApplyDense(const DenseJob& job) {
  size_t part = job.n_in;
  if (!IsFew(job.rows.rows)) {
    const size_t n_parts = (job.n_in + kMaxDepth - 1) / kMaxDepth;
    part = RoundUp((job.n_in + n_parts - 1) / n_parts);
  }
  for (size_t row = 0; row < job.rows.rows; row += kTokenBlock) {
    const size_t n = std::min(kTokenBlock, job.rows.rows - row);
    for (size_t in = 0; in < job.n_in; in += part) {
      MultiplyPart(job, row, n, in, std::min(part, job.n_in - in));
    }
  }
}

// max(x, 0) - a erfc(a / sqrt 2) / 2 with a = |x|, in which nothing cancels. The second factor is
// 2^-(1 + a p(a)); p has degree 7 and the least largest error of the whole, 9.0e-9. From a = 13 on
// the factor is 0.
HWY_INLINE hn::Vec<FloatTag> GeluOf(hn::Vec<FloatTag> x) {
  const FloatTag d;
  const auto most = hn::Set(d, 16.0f);
  auto a = hn::Abs(x);
  a = hn::IfThenElse(hn::Gt(a, most), most, a);  // and NaN stays
  auto p = hn::Set(d, 1.9020659465240897e-06f);
  p = hn::MulAdd(p, a, hn::Set(d, -2.805694384733215e-05f));
  p = hn::MulAdd(p, a, hn::Set(d, 1.3147323625162244e-04f));
  p = hn::MulAdd(p, a, hn::Set(d, 2.720757038332522e-04f));
  p = hn::MulAdd(p, a, hn::Set(d, -7.245421409606934e-03f));
  p = hn::MulAdd(p, a, hn::Set(d, 5.262761190533638e-02f));
  p = hn::MulAdd(p, a, hn::Set(d, 4.591621458530426e-01f));
  p = hn::MulAdd(p, a, hn::Set(d, 1.1511110067367554f));
  const auto factor = Exp2(d, hn::NegMulAdd(p, a, hn::Set(d, -1.0f)));
  return hn::NegMulAdd(a, factor, hn::IfThenElseZero(hn::Gt(x, hn::Zero(d)), x));
}

void GeluArray(float* values, size_t n) {
  const FloatTag d;
  constexpr size_t kStep = kLanes;
  size_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    hn::StoreU(GeluOf(hn::LoadU(d, values + i)), d, values + i);
  }
  if (i == n) return;
  float rest[kStep] = {};
  std::copy(values + i, values + n, rest);
  hn::StoreU(GeluOf(hn::LoadU(d, rest)), d, rest);
  std::copy_n(rest, n - i, values + i);
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <ggml-cpu.h>

#include <memory>

namespace pith {

HWY_EXPORT(ApplyDense);
HWY_EXPORT(GeluArray);

Dense::Dense(std::span<const float> weight, std::span<const float> bias)
    : n_in_(weight.size() / bias.size()), stride_(RoundUp(n_in_)), bias_(bias.begin(), bias.end()) {
  std::vector<float> padded(bias.size() * stride_);
  for (size_t o = 0; o < bias.size(); ++o) {
    std::copy_n(weight.begin() + static_cast<ptrdiff_t>(o * n_in_), n_in_,
                padded.begin() + static_cast<ptrdiff_t>(o * stride_));
  }
  const auto n = static_cast<int64_t>(padded.size());
  std::vector<uint16_t> halves(padded.size());
  std::vector<float> back(padded.size());
  ggml_cpu_fp32_to_fp16(padded.data(), halves.data(), n);
  ggml_cpu_fp16_to_fp32(halves.data(), back.data(), n);
  if (back == padded) {
    halves_ = std::move(halves);
  } else {
    floats_ = std::move(padded);
  }
}

void Dense::Apply(const MatrixView<const float>& rows, float* out, size_t row_step,
                  size_t out_step) const {
  std::unique_ptr<float[]> packed;
  if (!IsFew(rows.rows) && n_in_ > kMaxDepth && n_out() > kWeightRows) {
    packed = std::make_unique_for_overwrite<float[]>(kTokenBlock * kMaxDepth);
  }
  const DenseJob job = {
      .rows = rows,
      .n_out = n_out(),
      .n_in = n_in_,
      .stride = stride_,
      .halves = is_half() ? halves_.data() : nullptr,
      .floats = floats_.data(),
      .bias = bias_.data(),
      .out = out,
      .row_step = row_step,
      .out_step = out_step,
      .packed = packed.get(),
  };
  HWY_DYNAMIC_DISPATCH(ApplyDense)(job);
}

void Gelu(std::span<float> values) {
  HWY_DYNAMIC_DISPATCH(GeluArray)(values.data(), values.size());
}

}  // namespace pith
#endif  // HWY_ONCE
