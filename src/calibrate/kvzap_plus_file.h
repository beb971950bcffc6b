// A kvzap+ surrogate as safetensors (docs/formats.md).
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/safetensors.h"
#include "calibrate/kvzap_file.h"
#include "pith/calibration.h"

namespace pith {

// Nothing where no tensor is called `kvzap_plus.`. Throws Error(kFormat).
std::optional<KvzapPlusSurrogate> ReadKvzapPlus(const SafeTensors& tensors);

// `surrogate` and `memory` must outlive the use of `tensors`.
void AddKvzapPlus(const KvzapPlusSurrogate& surrogate, KvzapTensors& memory,
                  std::map<std::string, SafeTensor, std::less<>>& tensors);

}  // namespace pith
