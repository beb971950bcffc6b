// Finding the calibration that belongs to a model.
#pragma once

#include <filesystem>
#include <memory>

#include "pith/calibration.h"
#include "pith/model.h"
#include "pith/plan.h"

namespace pith::cli {

// `<stem of the model file>.pithcal` beside the model, if it holds what the plan needs; or else,
// in the folder of calibrations that pith is installed with, the one it is built from or
// ./calibrations, a file that does and whose fingerprint is the model's; or else the one beside the
// model all the same. Null if there is none. Throws Error when the one beside the model does not
// fit.
std::shared_ptr<const Calibration> FindCalibration(const Model& model,
                                                   const std::filesystem::path& model_file,
                                                   const Plan& plan);

}  // namespace pith::cli
