// Which scorer judges where none is named.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "engine/plan_calibration.h"
#include "pith/pith.h"

namespace pith::cli {

inline constexpr char kAutoScorer[] = "auto";
// What that means for a model whose calibration holds what it needs: one reading, and the best that
// is known to come out of one.
inline constexpr char kBestScorer[] = "kvzap";
// What it means for other models. A document that is read once and asked often is worth a second
// reading, after which nothing judges better; what is said in a conversation is read between two
// turns that somebody waits for, so that the model's loss curves judge it, or its Q-Filters or, for
// want of those, the norms of its keys, which beat keeping only what is recent wherever something
// is asked for.
inline constexpr char kDocumentScorer[] = "kvzip";
inline constexpr char kCurveScorer[] = "qfilter+";
inline constexpr char kFilterScorer[] = "qfilter";
inline constexpr char kPlainScorer[] = "knorm";

enum class Reading { kDocument, kConversation };

struct ScorerChoice {
  std::string scorer;
  std::shared_ptr<const Calibration> calibration;  // null if it needs none
  std::string notice;  // one sentence that it is not the best one, and what would change that
};

// `given`: the calibration that was named, null if none was. Throws Error(kNotFound) where the plan
// keeps by a threshold, which means something else to every scorer, and the best one cannot be had;
// Error when the calibration beside the model does not fit.
ScorerChoice ChooseScorer(const Model& model, const std::filesystem::path& model_file,
                          const Plan& plan, Reading reading,
                          std::shared_ptr<const Calibration> given);

// "'pith calibrate --kvzap linear -m MODEL --corpus FILES -o TARGET'", which makes a part of a
// calibration.
std::string CalibrateCommand(const CalibrationPart& part, const std::filesystem::path& model_file);

}  // namespace pith::cli
