#include "cli/calibration_search.h"

#include <algorithm>
#include <system_error>
#include <vector>

#include "calibrate/metadata_keys.h"
#include "engine/plan_calibration.h"
#include "pith/error.h"

namespace pith::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kExtension[] = ".pithcal";

std::vector<fs::path> Folders() {
  std::vector<fs::path> folders;
  std::error_code error;
  const fs::path executable = fs::read_symlink("/proc/self/exe", error);
  if (!error) {
    folders.push_back(executable.parent_path().parent_path() / "share/pith/calibrations");
  }
  folders.push_back(PITH_SOURCE_CALIBRATIONS);
  folders.push_back("calibrations");
  return folders;
}

// In order of name, so that the choice does not depend on the file system.
std::vector<fs::path> CalibrationsIn(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (at->path().extension() == kExtension) files.push_back(at->path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

std::shared_ptr<const Calibration> FindCalibration(const Model& model, const fs::path& model_file,
                                                   const Plan& plan) {
  std::error_code error;
  const fs::path beside = fs::path(model_file).replace_extension(kExtension);
  std::shared_ptr<const Calibration> of_model;
  if (fs::is_regular_file(beside, error)) {
    of_model = std::make_shared<const Calibration>(Calibration::Load(beside));
    of_model->CheckFits(model.info());
    if (HoldsFor(*of_model, plan)) return of_model;
  }
  for (const fs::path& folder : Folders()) {
    for (const fs::path& file : CalibrationsIn(folder)) {
      try {
        Calibration calibration = Calibration::Load(file);
        calibration.CheckFits(model.info());
        // Shape alone does not say that a file which nobody named is this model's.
        const auto fingerprint = calibration.metadata.find(kFingerprintKey);
        if (fingerprint == calibration.metadata.end() ||
            fingerprint->second != model.info().fingerprint) {
          continue;
        }
        if (!HoldsFor(calibration, plan)) continue;
        return std::make_shared<const Calibration>(std::move(calibration));
      } catch (const Error&) {
        continue;
      }
    }
  }
  return of_model;
}

}  // namespace pith::cli
