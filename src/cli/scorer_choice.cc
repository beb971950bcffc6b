#include "cli/scorer_choice.h"

#include <utility>

#include "base/fail.h"
#include "cli/calibration_search.h"

namespace pith::cli {
namespace {

std::shared_ptr<const Calibration> Fitting(const Model& model,
                                           const std::filesystem::path& model_file,
                                           const Plan& plan,
                                           const std::shared_ptr<const Calibration>& given) {
  auto calibration = given ? given : FindCalibration(model, model_file, plan);
  return calibration && HoldsFor(*calibration, plan) ? calibration : nullptr;
}

Plan With(Plan plan, const char* scorer) {
  plan.scorer = scorer;
  return plan;
}

}  // namespace

ScorerChoice ChooseScorer(const Model& model, const std::filesystem::path& model_file,
                          const Plan& plan, Reading reading,
                          std::shared_ptr<const Calibration> given) {
  if (plan.keep.kind == Keep::Kind::kAll) return {kBestScorer, std::move(given), {}};
  const Plan best = With(plan, kBestScorer);
  if (auto fitting = Fitting(model, model_file, best, given)) return {kBestScorer, fitting, {}};
  const std::string missing =
      given ? "the calibration given holds no surrogate"
            : fmt::format("no calibration with a surrogate fits {}", model_file.string());
  const std::string cure = CalibrateCommand(PartsOfScorer(best).front(), model_file) + " makes one";
  if (plan.keep.kind == Keep::Kind::kThreshold) {
    Fail(ErrorCode::kNotFound,
         "{} is what entries are worth to {}, but {}; {} (--scorer names another scorer, whose "
         "worths are others)",
         plan.keep.ToString(), kBestScorer, missing, cure);
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
    choice.calibration = Fitting(model, model_file, With(plan, scorer), given);
    if (!choice.calibration) continue;
    choice.scorer = scorer;
    break;
  }
  choice.notice =
      fmt::format("{}, so {} judges what stays, less well; {}", missing, choice.scorer, cure);
  return choice;
}

std::string CalibrateCommand(const CalibrationPart& part, const std::filesystem::path& model_file) {
  const std::string target =
      std::filesystem::path(model_file).replace_extension(".pithcal").string();
  return fmt::format("'pith calibrate{}{} -m {} --corpus FILES -o {}'",
                     part.flags.empty() ? "" : " ", part.flags, model_file.string(), target);
}

}  // namespace pith::cli
