// Finding the calibration that belongs to a model.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "pith/calibration.h"
#include "pith/model.h"

namespace pith::cli {

// Whether a calibration holds what a scorer needs.
bool HoldsFor(const Calibration& calibration, const std::string& scorer);

// `<stem of the model file>.pithcal` beside the model, if it holds what the scorer needs; or else,
// in the folder of calibrations that pith is installed with, the one it is built from or
// ./calibrations, a file that does and whose fingerprint is the model's; or else the one beside the
// model all the same. Null if there is none. Throws Error when the one beside the model does not
// fit.
std::shared_ptr<const Calibration> FindCalibration(const Model& model,
                                                   const std::filesystem::path& model_file,
                                                   const std::string& scorer);

}  // namespace pith::cli
