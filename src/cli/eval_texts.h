// What the tasks of `pith eval` share that measure on texts of the user's.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/eval_plans.h"
#include "eval/text_pieces.h"

namespace pith::cli {

// The files named; of a folder all its .txt files; without names those of a checkout. `flag` is the
// one that names them. Throws UsageError.
std::vector<std::string> ReadTexts(std::vector<std::string> names, const std::string& flag);
inline constexpr char kCheckoutEssays[] = ".deps/texts/essays";
// --text, for tasks that cut pieces from plain text.
void AddTextFlag(CommandLine& line, std::vector<std::string>& names);

// A model and the pieces of plain text that it is measured on.
class TextTask {
 public:
  // `names` are those of --text. Throws UsageError, and Error for a model that cannot be read.
  TextTask(const std::vector<std::string>& names, const EvalFlags& flags);

  // Throws UsageError unless all lengths are from `low`, which `why` explains, to what context and
  // texts hold with `n_after` tokens more.
  void CheckLengths(int64_t low, const std::string& why, int64_t n_after = 0) const;

  const Model& model() const { return model_; }
  const SessionOptions& options() const { return options_; }
  const TextPieces& pieces() const { return pieces_; }
  // What a piece depends on besides its length and number. Raise the version when the same seed no
  // longer gives the same pieces.
  nlohmann::ordered_json Settings(const std::string& task, int version) const;

 private:
  const EvalFlags& flags_;
  std::vector<std::string> texts_;
  Model model_;
  SessionOptions options_;
  TextPieces pieces_;
};

}  // namespace pith::cli
