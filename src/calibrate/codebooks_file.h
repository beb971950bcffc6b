// Codebooks as safetensors (docs/formats.md).
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/safetensors.h"
#include "calibrate/kvzap_file.h"
#include "pith/calibration.h"

namespace pith {

// Nothing where no tensor is called `codebooks.`. Throws Error(kFormat).
std::optional<PqCodebooks> ReadCodebooks(const SafeTensors& tensors);

// `codebooks` and `memory` must outlive the use of `tensors`.
void AddCodebooks(const PqCodebooks& codebooks, KvzapTensors& memory,
                  std::map<std::string, SafeTensor, std::less<>>& tensors);

}  // namespace pith
