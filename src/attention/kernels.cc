// Compiles the kernels once per SIMD level and picks the level at run time.
#include "attention/kernels.h"

// AVX-512 with sums of products of bytes (VNNI) and permutes of bytes (VBMI): Ice Lake, Zen 4. For
// this level Highway 1.0.3 allows the compiler AVX-VNNI, which these have not; GCC uses it only for
// loops of products of bytes, of which there are none here, Clang for vectors' products too.
#if defined(__GNUC__) && !defined(__clang__)
#define HWY_WANT_AVX3_DL 1
#endif
// Levels whose vectors have no fixed size.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "attention/kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h, which includes this file again for every level.
#include "attention/decode-inl.h"
#include "attention/max_probability-inl.h"
#include "attention/prefill-inl.h"
#include "attention/simd-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {

void Exp2Array(const float* x, size_t n, float* y) {
  const FloatTag d;
  for (size_t i = 0; i < n; i += kLanes) hn::StoreU(Exp2(d, hn::LoadU(d, x + i)), d, y + i);
}

void Few(const Segment& s) { CanDecode(s) ? Decode(s) : Prefill(s); }

// Products of integers take less time than converting and multiplying floats, however many rows
// there are. Tables of 256 products take too long to make for every row.
void Many(const Segment& s) {
  const bool integers =
      s.keys.id != CodecId::kF16 && s.keys.id != CodecId::kPq8 && s.values.id != CodecId::kF16;
  integers&& CanDecode(s) ? Decode(s) : Prefill(s);
}

const Kernels* LevelKernels() {
  // Where the instruction set converts f16, doing so again for every tile of rows costs less than
  // storing the result; where it does not, a conversion takes a dozen instructions.
  static const Kernels kernels = {
      .level = hwy::TargetName(HWY_TARGET),
      .decode = Few,
      .score = HWY_TARGET == HWY_SCALAR ? nullptr : Score,
      .prefill = Many,
      .judge = Judge,
      .decode_max_rows = kHasF16 ? 128 : 4,
      .exp2 = Exp2Array,
  };
  return &kernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <string>
#include <vector>

#include "attention/attention.h"

namespace pith {

HWY_EXPORT(LevelKernels);

const Kernels& CurrentKernels() { return *HWY_DYNAMIC_DISPATCH(LevelKernels)(); }

std::vector<std::string> AvailableSimdLevels() {
  hwy::SetSupportedTargetsForTest(0);
  std::vector<std::string> levels;
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    levels.emplace_back(hwy::TargetName(target));
  }
  return levels;
}

std::string CurrentSimdLevel() { return CurrentKernels().level; }

bool ForceSimdLevel(const std::string& name) {
  hwy::SetSupportedTargetsForTest(0);
  int64_t wanted = 0;
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (name == hwy::TargetName(target)) wanted = target;
  }
  if (wanted == 0 && !name.empty()) return false;
  hwy::SetSupportedTargetsForTest(wanted);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  return true;
}

}  // namespace pith
#endif  // HWY_ONCE
