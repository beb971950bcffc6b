// What to keep of the KV cache.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pith/calibration.h"

namespace pith {

// How much of the cache stays: everything, a fraction of what was read ("25%"), a number of entries
// per head ("512", sinks and window included) or bytes in all ("64MiB").
struct Keep {
  enum class Kind { kAll, kFraction, kEntries, kBytes };
  Kind kind = Kind::kAll;
  double fraction = 1.0;  // (0, 1]
  int64_t entries = 0;
  uint64_t bytes = 0;

  // Throws Error(kInvalidArgument) naming the forms above.
  static Keep Parse(std::string_view text);
  std::string ToString() const;
};

// "64MiB", "1.5GiB", "800KB", "4096". Throws Error(kInvalidArgument).
uint64_t ParseBytes(std::string_view text);

// scorer + budget + codecs. The default keeps everything.
struct Plan {
  Keep keep;
  std::string scorer = "qfilter";  // see ScorerNames()
  std::string key_codec = "f16";
  std::string value_codec = "f16";
  int window = 128;                                // the most recent entries, never evicted
  int sinks = 4;                                   // the first entries, never evicted
  int skip_layers = 0;                             // the first layers, left whole
  uint64_t seed = 0;                               // of the scorer "random"
  uint64_t kv_limit = 0;                           // bytes the cache may allocate, 0: no limit
  std::shared_ptr<const Calibration> calibration;  // needed by "qfilter"
};

std::vector<std::string> ScorerNames();

}  // namespace pith
