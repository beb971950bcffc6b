// Gives every entry a worth by which the budget decides what stays.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/matrix_view.h"
#include "pith/plan.h"

namespace pith {

// Entries of one (layer, KV head), oldest first.
struct Entries {
  int layer = 0;
  int kv_head = 0;
  std::span<const int32_t> positions;  // [n]
  MatrixView<const float> keys;        // [n, head_dim], after RoPE
  MatrixView<const float> values;      // [n, head_dim]
};

// Higher stays longer. Stateless between calls, safe to call from many threads. A scorer sees an
// entry once, when it is appended; its worth is kept beside the entry.
class Scorer {
 public:
  virtual ~Scorer() = default;
  virtual void Score(const Entries& entries, std::span<float> worth) const = 0;  // worth [n]
};

// The scorer that `plan` names, for a model. Null when the plan keeps everything.
// Throws Error(kInvalidArgument) for an unknown name, Error(kMismatch) for a foreign calibration.
std::unique_ptr<Scorer> MakeScorer(const Plan& plan, const ModelInfo& model);

}  // namespace pith
