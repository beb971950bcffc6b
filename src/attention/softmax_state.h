// The state of a softmax-weighted sum that is still being read: (max, sum, vector), the merge of
// two and the division at the end (FlashAttention, arXiv 2205.14135, section 3.1; Flash-Decoding
// merges the same state over runs of entries).
#pragma once

#include <cmath>
#include <limits>

namespace pith {

// Scores are in units of log2, so that weights are 2^(score - max). The state of no entries is
// {Empty(), 0, zeros}; its max is finite so that merging never meets inf - inf. A score of -inf has
// weight 0; a score of +inf or NaN makes the whole state NaN, which stays so.
template <typename T>
struct SoftmaxState {
  T max;
  T sum;
  T* vector;  // [dim], sum over entries of 2^(score - max) * value

  static constexpr T Empty() { return std::numeric_limits<T>::lowest(); }
};

template <typename T>
void ClearState(SoftmaxState<T>& state, int dim) {
  state.max = SoftmaxState<T>::Empty();
  state.sum = 0;
  for (int i = 0; i < dim; ++i) state.vector[i] = 0;
}

// a becomes the state of the entries of both.
template <typename T>
void MergeState(SoftmaxState<T>& a, const SoftmaxState<T>& b, int dim) {
  const T max = b.max > a.max ? b.max : a.max;
  const T scale_a = std::exp2(a.max - max);
  const T scale_b = std::exp2(b.max - max);
  a.max = max;
  a.sum = a.sum * scale_a + b.sum * scale_b;
  for (int i = 0; i < dim; ++i) a.vector[i] = a.vector[i] * scale_a + b.vector[i] * scale_b;
}

// The attention output [dim]; zeros for a state of no entries, or of weights that are all 0.
template <typename T>
void NormaliseState(const SoftmaxState<T>& state, int dim, T* out) {
  const T scale = state.sum == 0 ? T{0} : T{1} / state.sum;
  for (int i = 0; i < dim; ++i) out[i] = state.vector[i] * scale;
}

}  // namespace pith
