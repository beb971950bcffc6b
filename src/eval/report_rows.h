// The plans of a report under the names that its tables and plots share.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "eval/report.h"

namespace pith {

// Records of a report in the order of its rows: by model and length, the full cache first, then by
// scorer, budget and share kept. Settings are told only where they differ.
class ReportRows {
 public:
  explicit ReportRows(std::vector<EvalRecord> records);

  const std::vector<EvalRecord>& records() const { return records_; }
  const std::vector<std::string>& scorers() const { return scorers_; }
  const std::vector<std::string>& variants() const { return variants_; }

  std::string Scorer(const EvalRecord& record) const;   // "qfilter@own.pithcal", "full cache"
  std::string Variant(const EvalRecord& record) const;  // "global, window 64"
  std::string Plan(const EvalRecord& record) const;     // "qfilter, global, keep 25%"
  // "SmolLM2, 2,048 tokens"
  std::string Panel(const EvalRecord& record, bool with_length = true) const;

  // The columns of Panel and Plan, and a record's cells in them. `tried` says what scorer() names.
  std::vector<ReportColumn> Columns(bool subtasks, const std::string& tried) const;
  std::vector<ReportCell> Cells(const EvalRecord& record, bool subtasks) const;

 private:
  bool Differs(const std::string& setting) const { return differing_.contains(setting); }

  std::vector<EvalRecord> records_;
  std::map<std::string, bool> differing_;  // settings: whether of the task
  bool several_models_ = false;
  std::vector<std::string> scorers_;
  std::vector<std::string> variants_;
};

}  // namespace pith
