// Loss curves of a model's heads, for qfilter+.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "pith/calibration.h"
#include "pith/text.h"

namespace pith {

// Measured on `sequences`, each read in full: entries but those of sinks, a window and what follows
// it are put in the order of expected_calibrated, with the query statistics of `calibration`, and
// what leaving out its end costs is measured on the queries of the tokens that follow. Throws
// Error(kInvalidArgument) where a loss is not a number, Error(kCancelled).
KeepCurves MeasureKeepCurves(const Model& model, std::span<const std::vector<Token>> sequences,
                             std::shared_ptr<const Calibration> calibration, int n_threads,
                             const Progress& progress);

}  // namespace pith
