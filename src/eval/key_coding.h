// Ways to store keys that are measured, whether or not a cache can hold them.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/matrix_view.h"
#include "model/key_frames.h"
#include "pith/model.h"
#include "pith/plan.h"

namespace pith {

// Does not change once made; safe to call from many threads.
class KeyCoding {
 public:
  virtual ~KeyCoding() = default;
  virtual double key_bytes() const = 0;  // of one key, what all share (codebooks) left out
  // What comes back of keys [n, head_dim] of head layer * n_kv_heads + kv_head. [n, head_dim]
  virtual std::vector<float> RoundTrip(int head, MatrixView<const float> keys) const = 0;
};

// What the plan's key_codec does: f16, q8, q4, pq8xM and pq4xM as in the cache, q8 and q4 in the
// model's key frames, the last two by the codebooks of the plan's calibration; and int2, which the
// cache does not have: rows rotated as for q4 become the 4 values (-3/2, -1/2, 1/2, 3/2) times an
// f16 scale of least squares for every 32 dimensions. Throws Error(kInvalidArgument) for another
// name, without codebooks, and where the codec does.
std::unique_ptr<KeyCoding> MakeKeyCoding(const Plan& plan, const ModelInfo& info,
                                         const KeyFrames* frames = nullptr);

// All that the plan's calibration allows: q8, q4, int2, and a name for each of its codebooks.
std::vector<std::string> KeyCodingNames(const Calibration* calibration);

}  // namespace pith
