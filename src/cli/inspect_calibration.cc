#include "cli/inspect_calibration.h"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/printable.h"
#include "base/safetensors.h"
#include "calibrate/metadata_keys.h"
#include "cli/report.h"
#include "pith/calibration.h"

namespace pith::cli {
namespace {

// What a tensor is part of.
std::string PartOf(const std::string& tensor) {
  constexpr std::string_view kCodebooks = "codebooks.";
  if (tensor == "q_filters") return "Q-Filters";
  if (tensor.starts_with("query_")) return "queries";
  if (tensor == "keep_loss") return "loss curves";
  if (tensor.starts_with("kvzap_plus.")) return "kvzap+";
  if (tensor.starts_with("kvzap.") || tensor.starts_with("layers.")) return "kvzap";
  if (tensor.starts_with("codebooks.pq")) return "codebook " + tensor.substr(kCodebooks.size());
  if (tensor.starts_with(kCodebooks)) return "codebooks, map";
  return "other";
}

}  // namespace

bool IsCalibration(const std::string& file) {
  const std::string extension = std::filesystem::path(file).extension();
  return extension == ".pithcal" || extension == ".safetensors";
}

void InspectCalibration(const std::string& file, bool json) {
  const Calibration calibration = Calibration::Load(file);
  const SafeTensors tensors = SafeTensors::Open(file);
  std::map<std::string, uint64_t> parts;
  for (const auto& [name, tensor] : tensors.tensors()) parts[PartOf(name)] += tensor.bytes.size();
  const uint64_t bytes = std::filesystem::file_size(file);
  if (json) {
    nlohmann::ordered_json out;
    out["file"] = file;
    out["bytes"] = bytes;
    out["n_layers"] = calibration.n_layers;
    out["n_kv_heads"] = calibration.n_kv_heads;
    out["head_dim"] = calibration.head_dim;
    out["parts"] = parts;
    out["metadata"] = calibration.metadata;
    PrintJson(out);
    return;
  }
  Print(fmt::format("{}: calibration, {}\n", file, FormatBytes(bytes)));
  for (const char* key : {kModelKey, kFingerprintKey}) {
    const auto found = calibration.metadata.find(key);
    if (found != calibration.metadata.end()) {
      Print(fmt::format("{:<20}{}\n", key, Printable(found->second)));
    }
  }
  Print(fmt::format("\n{:<20}{:>14}\n", "part", "bytes"));
  for (const auto& [name, size] : parts) {
    Print(fmt::format("{:<20}{:>14}\n", Printable(name), WithCommas(static_cast<int64_t>(size))));
  }
}

}  // namespace pith::cli
