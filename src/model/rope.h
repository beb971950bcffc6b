// Rotary position embedding of single rows (arXiv 2104.09864; scaling: YaRN, arXiv 2309.00071), as
// ggml_rope_ext does it in the graph.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/hparams.h"

namespace pith {

// A linear map of a head's row: pair i, (x, y), becomes (x cos[i] - y sin[i], x sin[i] + y cos[i]);
// dimensions that RoPE leaves alone stay.
struct Rotation {
  std::vector<float> cos;    // [n_rot / 2], times what the scaling multiplies rotated rows by
  std::vector<float> sin;    // the same
  bool interleaved = false;  // pair i is (2i, 2i + 1) rather than (i, i + n_rot / 2)

  // row: [head_dim]
  void Turn(float* row) const;
  // The inverse; the map must have one, as that of a position does.
  void TurnBack(float* row) const;
  // map(i, x, y) for each pair i of the row, which it may change.
  template <typename Map>
  void ForEachPair(float* row, const Map& map) const;
};

template <typename Map>
void Rotation::ForEachPair(float* row, const Map& map) const {
  const size_t n = cos.size();
  for (size_t i = 0; i < n; ++i) {
    map(i, row[interleaved ? 2 * i : i], row[interleaved ? 2 * i + 1 : i + n]);
  }
}

class Rope {
 public:
  // factors: [n_rot / 2] that divide the frequencies (Llama 3), or empty.
  Rope(const HyperParams& hparams, std::span<const float> factors);

  Rotation At(int64_t position) const;
  // The mean of those at positions first..first+n-1, n > 0. Not a rotation any more: fast
  // dimensions cancel.
  Rotation Mean(int64_t first, int n) const;

 private:
  bool interleaved_;
  float freq_scale_;
  float magnitude_;
  float step_;                  // from a pair's frequency to the next one's
  std::vector<float> factors_;  // [n_rot / 2]
  std::vector<float> as_is_;    // [n_rot / 2], how much of the frequency is not scaled, 0 to 1
};

}  // namespace pith
