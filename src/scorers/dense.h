// A small dense layer over rows of hidden states, and the gelu between two of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/matrix_view.h"

namespace pith {

class Dense {
 public:
  // weight [n_out, n_in], bias [n_out], n_out > 0. Kept as f16 where that loses nothing.
  Dense(std::span<const float> weight, std::span<const float> bias);

  // out[o * out_step + r * row_step] = bias[o] + weight[o] . rows[r], for every row r of `rows`,
  // which has n_in() columns. The weights are read once for up to three rows, and for every 128 of
  // many. Any number of threads may call at the same time.
  void Apply(const MatrixView<const float>& rows, float* out, size_t row_step,
             size_t out_step) const;

  size_t n_in() const { return n_in_; }
  size_t n_out() const { return bias_.size(); }
  bool is_half() const { return !halves_.empty(); }

 private:
  size_t n_in_ = 0;
  size_t stride_ = 0;             // n_in to the next multiple of 16; zeros between
  std::vector<uint16_t> halves_;  // f16 [n_out, stride]; empty where f32 is needed
  std::vector<float> floats_;     // [n_out, stride]; empty where f16 is enough
  std::vector<float> bias_;       // [n_out]
};

// x := x (1 + erf(x / sqrt 2)) / 2, with an error below 1.5e-7 + 2^-24 |x|. NaN stays.
void Gelu(std::span<float> values);

}  // namespace pith
