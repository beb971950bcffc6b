#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace pith {
namespace {

// The pair, as a number of which those of whole pairs are whole, that turns `turns` times in the
// original context.
float TurningDimension(const HyperParams& h, float turns) {
  const auto n_rot = static_cast<float>(h.n_rot);
  const auto n_ctx = static_cast<float>(h.rope_scaling.n_ctx_original);
  return n_rot * std::log(n_ctx / (turns * 2 * std::numbers::pi_v<float>)) /
         (2 * std::log(h.rope_freq_base));
}

}  // namespace

void Rotation::Turn(float* row) const {
  ForEachPair(row, [&](size_t i, float& x, float& y) {
    const float turned = x * cos[i] - y * sin[i];
    y = x * sin[i] + y * cos[i];
    x = turned;
  });
}

void Rotation::TurnBack(float* row) const {
  ForEachPair(row, [&](size_t i, float& x, float& y) {
    const float square = cos[i] * cos[i] + sin[i] * sin[i];
    const float turned = (x * cos[i] + y * sin[i]) / square;
    y = (y * cos[i] - x * sin[i]) / square;
    x = turned;
  });
}

Rope::Rope(const HyperParams& h, std::span<const float> factors)
    : interleaved_(h.rope_interleaved),
      freq_scale_(h.rope_scaling.freq_scale),
      magnitude_(h.rope_scaling.attn_factor),
      step_(std::pow(h.rope_freq_base, -2.0f / static_cast<float>(h.n_rot))),
      factors_(factors.begin(), factors.end()) {
  const auto n_pairs = static_cast<size_t>(h.n_rot / 2);
  factors_.resize(n_pairs, 1.0f);
  as_is_.resize(n_pairs);
  const RopeScaling& s = h.rope_scaling;
  if (s.ext_factor == 0) return;
  magnitude_ *= 1.0f + 0.1f * std::log(1.0f / s.freq_scale);
  const float low = std::max(0.0f, std::floor(TurningDimension(h, s.beta_fast)));
  const float high =
      std::min(static_cast<float>(h.n_rot - 1), std::ceil(TurningDimension(h, s.beta_slow)));
  for (size_t i = 0; i < n_pairs; ++i) {
    const float ramp = (static_cast<float>(i) - low) / std::max(0.001f, high - low);
    as_is_[i] = (1 - std::clamp(ramp, 0.0f, 1.0f)) * s.ext_factor;
  }
}

// In float, step by step, so that the angles are those of the graph.
Rotation Rope::At(int64_t position) const {
  Rotation rotation;
  rotation.interleaved = interleaved_;
  float angle = static_cast<float>(position);
  for (size_t i = 0; i < factors_.size(); ++i, angle *= step_) {
    const float plain = angle / factors_[i];
    const float scaled = freq_scale_ * plain;
    const float used = scaled * (1 - as_is_[i]) + plain * as_is_[i];
    rotation.cos.push_back(std::cos(used) * magnitude_);
    rotation.sin.push_back(std::sin(used) * magnitude_);
  }
  return rotation;
}

Rotation Rope::Mean(int64_t first, int n) const {
  const size_t n_pairs = factors_.size();
  std::vector<double> cos(n_pairs);
  std::vector<double> sin(n_pairs);
  for (int64_t position = first; position < first + n; ++position) {
    const Rotation one = At(position);
    for (size_t i = 0; i < n_pairs; ++i) {
      cos[i] += one.cos[i];
      sin[i] += one.sin[i];
    }
  }
  Rotation mean;
  mean.interleaved = interleaved_;
  for (size_t i = 0; i < n_pairs; ++i) {
    mean.cos.push_back(static_cast<float>(cos[i] / n));
    mean.sin.push_back(static_cast<float>(sin[i] / n));
  }
  return mean;
}

}  // namespace pith
