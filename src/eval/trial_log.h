// Finished trials in a file of JSON lines, so that a measurement which was stopped goes on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <tuple>

#include "eval/codec_fidelity.h"
#include "eval/kld.h"
#include "eval/needle_run.h"
#include "eval/ppl.h"
#include "eval/spearman.h"

namespace pith {

// One trial with one plan. `settings` tells apart everything that its outcome depends on but length
// and index; the plan is for whoever reads the file.
template <typename Outcome>
struct TrialRecord {
  std::string settings;
  int64_t length = 0;
  int trial = 0;
  // Empty: the full cache, of which the rest of the plan is not written either. "none": all
  // entries, but as codes.
  std::string scorer;
  std::string calibration;  // file, empty: the default one
  std::string keep;
  std::string budget;
  int window = 0;
  std::string key_codec = "f16";
  std::string value_codec = "f16";
  std::string tiers;  // empty: none
  Outcome outcome;
};

// A record as a line of JSON, with a line break at its end, and back. Throws Error(kFormat).
template <typename Outcome>
std::string TrialLine(const TrialRecord<Outcome>& record);
template <typename Outcome>
TrialRecord<Outcome> ParseTrialLine(std::string_view line);

// Of the outcome of any task.
template <typename Outcome>
class TrialLog {
 public:
  // Reads what `file` holds, or makes it; a last line that was not finished is cut off. Without a
  // name the log is in memory only. Throws Error(kIo) when it cannot be read or written, and
  // Error(kFormat) naming the line when it is something else, which is left as it is.
  explicit TrialLog(std::filesystem::path file = {});

  const Outcome* Find(const std::string& settings, int64_t length, int trial) const;
  // Appends one line. Throws Error(kIo) with the system's reason.
  void Add(const TrialRecord<Outcome>& record);

 private:
  using Key = std::tuple<std::string, int64_t, int>;  // settings, length, trial

  std::filesystem::path file_;
  std::map<Key, Outcome> outcomes_;
};

extern template class TrialLog<NeedleOutcome>;
extern template class TrialLog<KldOutcome>;
extern template class TrialLog<ScoredOutcome>;
extern template class TrialLog<PplOutcome>;
extern template class TrialLog<SpearmanOutcome>;
extern template class TrialLog<CodecOutcome>;
extern template std::string TrialLine(const TrialRecord<KldOutcome>&);
extern template TrialRecord<KldOutcome> ParseTrialLine(std::string_view);

}  // namespace pith
