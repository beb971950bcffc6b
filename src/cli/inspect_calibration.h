// What a calibration holds.
#pragma once

#include <string>

namespace pith::cli {

bool IsCalibration(const std::string& file);  // by its name
void InspectCalibration(const std::string& file, bool json);

}  // namespace pith::cli
