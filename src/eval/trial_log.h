// Finished trials in a file of JSON lines, so that a measurement which was stopped goes on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <tuple>

#include "eval/needle_run.h"

namespace pith {

// One trial with one plan. `settings` tells apart everything that its outcome depends on but length
// and index; the rest is for whoever reads the file.
struct TrialRecord {
  std::string settings;
  int64_t length = 0;
  int trial = 0;
  std::string scorer;  // empty: the full cache
  std::string keep;
  std::string budget;
  std::string key;
  std::string value;
  double depth = 0;
  NeedleOutcome outcome;
};

class TrialLog {
 public:
  // Reads what `file` holds, or makes it; a last line that was not finished is cut off. Without a
  // name the log is in memory only. Throws Error(kIo) when it cannot be read or written, and
  // Error(kFormat) naming the line when it is something else, which is left as it is.
  explicit TrialLog(std::filesystem::path file = {});

  const NeedleOutcome* Find(const std::string& settings, int64_t length, int trial) const;
  // Appends one line. Throws Error(kIo) with the system's reason.
  void Add(const TrialRecord& record);

 private:
  using Key = std::tuple<std::string, int64_t, int>;  // settings, length, trial

  std::filesystem::path file_;
  std::map<Key, NeedleOutcome> outcomes_;
};

}  // namespace pith
