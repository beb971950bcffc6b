// What `pith eval TASK --json` printed, read back: records of finished measurements.
#pragma once

#include <cstdint>
#include <filesystem>
#include <istream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "eval/interval.h"

namespace pith {

// Needles hidden at one depth.
struct DepthOutcome {
  double depth = 0;  // share of the text before the needle, 0 to 1
  int64_t correct = 0;
  int64_t trials = 0;
};

// One plan, measured by one task at one length. Fields that a record may lack are empty.
struct EvalRecord {
  std::string task;     // kld, ppl, niah_single_2, ...
  std::string subtask;  // of ruler and longbench; "mean" is that of all
  std::string model;
  std::string scorer;  // empty: the full cache; of the task codec the key codec
  std::string keep;    // as --keep takes it
  std::string budget;
  std::optional<int64_t> length;  // tokens
  // What else tells plans and tasks apart, as text: "window" -> "128".
  std::map<std::string, std::string> plan_settings;
  std::map<std::string, std::string> task_settings;
  // Where and when: "version", "fingerprint", "cpu", "threads", "seed", "date".
  std::map<std::string, std::string> origin;
  // Every field that is a number, and every interval of 95 %, by the field's name.
  std::map<std::string, double> numbers;
  std::map<std::string, Interval> intervals;
  std::vector<DepthOutcome> by_depth;
  std::vector<std::vector<double>> kept_per_head;  // [n_layers][n_kv_heads], 0 to 1
  std::vector<std::vector<double>> per_head;       // the same, Spearman's rho or a cosine

  bool full() const { return scorer.empty(); }
  // The same for two records that measure the same thing, whatever they found.
  std::string Identity() const;
};

// Appends the records of a file: a list of objects, one object, or several of these one after the
// other. `name` is for messages. Throws Error(kFormat) with one sentence that names file and record
// for what is no JSON, for a task that is not known, and for a field of the wrong kind or out of
// its range. Fields that are not known are left alone.
void ReadRecords(std::istream& stream, const std::string& name, std::vector<EvalRecord>& records);
// Throws Error(kNotFound, kIo) as well.
std::vector<EvalRecord> ReadRecords(const std::vector<std::filesystem::path>& files);

// Of records with the same identity the last one stays, where the first one stood. Returns how many
// were replaced.
int64_t KeepLast(std::vector<EvalRecord>& records);

}  // namespace pith
