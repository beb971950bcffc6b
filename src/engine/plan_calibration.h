// What a plan uses of its calibration: the one place that says so.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "pith/plan.h"

namespace pith {

struct CalibrationPart {
  std::string name;   // "codebooks for pq8x16"
  std::string flags;  // of the run of `pith calibrate` that makes it: "--codebooks pq8x16", ""
  // Its values in the order in which they are hashed; empty where the calibration has none.
  std::function<std::vector<std::span<const float>>(const Calibration&)> values;
};

// Empty where nothing is judged, or by what needs none.
std::vector<CalibrationPart> PartsOfScorer(const Plan& plan);
std::vector<CalibrationPart> PartsOfCodecs(const Plan& plan);
std::vector<CalibrationPart> CalibrationParts(const Plan& plan);  // both

inline bool NeedsCalibration(const Plan& plan) { return !CalibrationParts(plan).empty(); }
// Those that a calibration, which may be null, does not have.
std::vector<CalibrationPart> MissingParts(const Calibration* calibration, const Plan& plan);
inline bool HoldsFor(const Calibration& calibration, const Plan& plan) {
  return MissingParts(&calibration, plan).empty();
}

// XXH3 over the values of the parts.
uint64_t CalibrationDigest(std::span<const CalibrationPart> parts, const Calibration& calibration);
// Its 16 hex digits over what the plan uses of `plan.calibration`, which must be there; empty for a
// plan that needs none.
std::string CalibrationHash(const Plan& plan);

std::string HashText(uint64_t xxh3);  // 16 hex digits

}  // namespace pith
