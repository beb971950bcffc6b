// What a saved session (`.pith`, docs/formats.md) holds, without its model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "pith/plan.h"
#include "pith/session.h"

namespace pith {

struct SnapshotSection {
  std::string name;
  uint64_t offset = 0;  // bytes from the start of the file
  uint64_t bytes = 0;
  bool intact = false;  // its checksum is right
};

struct SnapshotInfo {
  int version = 0;
  std::string model_name;
  std::string model_fingerprint;
  std::string calibration_hash;  // empty unless the plan needs one
  Plan plan;                     // without the calibration itself
  int n_layers = 0;
  int n_kv_heads = 0;
  int head_dim = 0;
  std::vector<Token> tokens;
  std::vector<HeadStats> heads;  // [n_layers * n_kv_heads]
  std::vector<TierStats> tiers;  // as CacheStats::tiers
  std::map<std::string, std::string> notes;
  uint64_t file_bytes = 0;
  std::vector<SnapshotSection> sections;
  bool intact = false;  // all of them
};

// Reads and verifies `file`. A damaged section is reported in the result; what cannot be read at
// all (not a snapshot, another version, a damaged header or manifest) throws Error(kNotFound, kIo,
// kFormat, kMismatch).
SnapshotInfo InspectSnapshot(const std::filesystem::path& file);

}  // namespace pith
