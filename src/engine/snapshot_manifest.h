// The JSON part of a `.pith` file: what the session was, and how its cache is laid out.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "budgets/steer.h"
#include "cache/cache.h"
#include "pith/plan.h"

namespace pith {

struct SnapshotManifest {
  struct Section {
    std::string name;
    uint64_t offset = 0;  // bytes from the start of the file
    uint64_t bytes = 0;
    uint64_t xxh3 = 0;
  };

  std::string model_name;
  std::string model_fingerprint;
  CacheShape shape;
  Plan plan;                     // without the calibration itself
  std::string calibration_hash;  // CalibrationHash, empty where the plan needs none
  int64_t n_read = 0;
  int64_t n_judged = 0;
  int64_t text_begin = 0;
  int64_t n_settled = 0;
  std::optional<Steering::Knowledge> worths;  // where a threshold is steered
  std::vector<int64_t> entries;               // [n_layers * n_kv_heads]
  // Of these, in each tier from 1 on. [n_tiers - 1][n_layers * n_kv_heads]
  std::vector<std::vector<int64_t>> coded;
  int64_t n_stored = 0;  // as in the session, where there are codes
  int key_frames = 0;    // kKeyFramesVersion where keys are coded in frames of the model
  std::map<std::string, std::string> notes;
  std::vector<Section> sections;
};

// Bytes that are not UTF-8 in names and notes are replaced.
std::string ManifestText(const SnapshotManifest& manifest);

// Every number lies within its range, there is a count for every head, and the plan makes sense.
// `name` is for messages. Throws Error(kFormat).
SnapshotManifest ParseManifest(std::string_view text, const std::string& name);

}  // namespace pith
