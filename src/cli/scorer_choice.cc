#include "cli/scorer_choice.h"

#include <utility>

#include "base/fail.h"
#include "cli/calibration_search.h"

namespace pith::cli {
namespace {

std::shared_ptr<const Calibration> Fitting(const Model& model,
                                           const std::filesystem::path& model_file,
                                           const std::string& scorer,
                                           const std::shared_ptr<const Calibration>& given) {
  auto calibration = given ? given : FindCalibration(model, model_file, scorer);
  return calibration && HoldsFor(*calibration, scorer) ? calibration : nullptr;
}

}  // namespace

ScorerChoice ChooseScorer(const Model& model, const std::filesystem::path& model_file,
                          const Keep& keep, Reading reading,
                          std::shared_ptr<const Calibration> given) {
  if (keep.kind == Keep::Kind::kAll) return {kBestScorer, std::move(given), {}};
  if (auto best = Fitting(model, model_file, kBestScorer, given)) return {kBestScorer, best, {}};
  const std::string missing =
      given ? "the calibration given holds no surrogate"
            : fmt::format("no calibration with a surrogate fits {}", model_file.string());
  const std::string cure = CalibrateCommand(kBestScorer, model_file) + " makes one";
  if (keep.kind == Keep::Kind::kThreshold) {
    Fail(ErrorCode::kNotFound,
         "{} is what entries are worth to {}, but {}; {} (--scorer names another scorer, whose "
         "worths are others)",
         keep.ToString(), kBestScorer, missing, cure);
  }
  ScorerChoice choice;
  if (reading == Reading::kDocument) {
    choice.scorer = kDocumentScorer;
    choice.notice = fmt::format(
        "{}, so {} judges the document by reading it a second time; {}, with which one reading is "
        "enough",
        missing, choice.scorer, cure);
    return choice;
  }
  choice.scorer = kPlainScorer;
  for (const char* scorer : {kCurveScorer, kFilterScorer}) {
    choice.calibration = Fitting(model, model_file, scorer, given);
    if (!choice.calibration) continue;
    choice.scorer = scorer;
    break;
  }
  choice.notice =
      fmt::format("{}, so {} judges what stays, less well; {}", missing, choice.scorer, cure);
  return choice;
}

std::string CalibrateCommand(const std::string& scorer, const std::filesystem::path& model_file) {
  const std::string target =
      std::filesystem::path(model_file).replace_extension(".pithcal").string();
  std::string form;
  if (scorer == kBestScorer) form = " --kvzap linear";
  if (scorer == "kvzap+") form = " --kvzap plus";
  return fmt::format("'pith calibrate{} -m {} --corpus FILES -o {}'", form, model_file.string(),
                     target);
}

}  // namespace pith::cli
