// What the tasks of `pith eval` share that ask a question about a text.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/eval_plans.h"
#include "eval/asked.h"

namespace pith::cli {

class AskFlags {
 public:
  // --aware --no-chat --template
  void AddTo(CommandLine& line);
  // Throws UsageError for flags that exclude one another.
  void Check() const;

  PromptFrame Frame(const Model& model) const;
  // Throws UsageError where what is asked for is not known when the plans evict.
  Asking How(const EvalFlags& flags, std::span<const TriedPlan> plans,
             const SessionOptions& options) const;

  // `json` is the settings of a task: what depends on these flags is added.
  void AddSettings(nlohmann::ordered_json& json, const PromptFrame& frame) const;
  bool aware() const { return aware_; }
  bool chat() const { return !no_chat_; }

 private:
  std::string template_name_;
  bool no_chat_ = false;
  bool aware_ = false;
};

// Every byte of a file that the user named. Throws UsageError.
std::string ReadData(const std::string& file);

// Records of a benchmark, or its table: one for every part, length and plan, and one for the mean
// of all parts. `score` and `full_score` are 0 to 100, their intervals a bootstrap over trials (of
// the mean: in every part).
struct Benchmark {
  std::string name;  // "ruler"
  const Model& model;
  const EvalFlags& flags;
  const AskFlags& ask;
  const SessionOptions& options;
};
void PrintScores(const Benchmark& benchmark, const std::vector<Subtask>& subtasks,
                 const std::vector<Cell<ScoredOutcome>>& cells);

}  // namespace pith::cli
