// What leaving out entries does to a head's output, measured: the loss curves behind qfilter+.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/matrix_view.h"
#include "base/safetensors.h"
#include "pith/calibration.h"

namespace pith {

// One KV head of a text that was read in full, and the queries of the tokens at its end.
struct HeadText {
  MatrixView<const float> keys;    // [n_tokens, head_dim], after RoPE
  MatrixView<const float> values;  // [n_tokens, head_dim]
  MatrixView<const float>
      queries;    // [n_queries * group, head_dim]: token by token, the last tokens
  int group = 0;  // query heads
  // The tokens that may go, the first to keep first; all others always stay.
  std::span<const int32_t> order;
};

// |W_O^g row| of each row [n, head_dim] for query head g of the KV head.
using OutputNorm = std::function<void(int g, MatrixView<const float> rows, std::span<float> norms)>;

// Mean over the queries, sum over the query heads g, of |W_O^g (o - o')|^2, where o is what a head
// attends to and o' the same when of `order` only the first share KeepCurves::Share(i) is left:
// curve [KeepCurves::kPoints]. Adds the mean of |W_O^g o|^2 to `output`. Every query sees the
// tokens up to its own.
void AddLossOfKeeping(const HeadText& text, const OutputNorm& output_norm, std::span<double> curve,
                      double& output);

// Nothing where there is no such tensor. Throws Error(kFormat).
std::optional<KeepCurves> ReadKeepCurves(const SafeTensors& tensors);

// `curves` must outlive the use of `tensors`.
void AddKeepCurves(const KeepCurves& curves,
                   std::map<std::string, SafeTensor, std::less<>>& tensors);

}  // namespace pith
