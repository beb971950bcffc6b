// pith inspect: what a snapshot or a calibration holds.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/fail.h"
#include "cli/inspect_calibration.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/verbs.h"

namespace pith::cli {
namespace {

using Json = nlohmann::ordered_json;

// Entries kept per head. [n_layers][n_kv_heads]
using Counts = std::vector<std::vector<int64_t>>;

Counts CountsOf(const SnapshotInfo& info) {
  Counts counts(static_cast<size_t>(info.n_layers),
                std::vector<int64_t>(static_cast<size_t>(info.n_kv_heads)));
  for (const HeadStats& head : info.heads) {
    counts.at(static_cast<size_t>(head.layer)).at(static_cast<size_t>(head.kv_head)) = head.entries;
  }
  return counts;
}

// What a file says of itself must not steer the terminal.
std::string Harmless(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return text;
}

int64_t Total(const Counts& counts) {
  int64_t total = 0;
  for (const auto& layer : counts) {
    for (int64_t entries : layer) total += entries;
  }
  return total;
}

// Read before the snapshot was saved; also if they themselves are damaged.
int64_t TokenCount(const SnapshotInfo& info) {
  for (const SnapshotSection& section : info.sections) {
    if (section.name == "tokens") return static_cast<int64_t>(section.bytes / sizeof(Token));
  }
  return std::ssize(info.tokens);
}

bool TerminalShowsBlocks() {
  const auto variable = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value != nullptr ? value : "";
  };
  if (variable("TERM") == "dumb") return false;
  std::string locale = variable("LC_ALL");
  if (locale.empty()) locale = variable("LC_CTYPE");
  if (locale.empty()) locale = variable("LANG");
  std::transform(locale.begin(), locale.end(), locale.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return locale.find("utf-8") != std::string::npos || locale.find("utf8") != std::string::npos;
}

// How full a head is, nothing to everything.
std::string Shade(int64_t entries, int64_t most) {
  constexpr std::array<const char*, 9> kBlocks = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  constexpr std::array<const char*, 9> kPlain = {" ", ".", ":", "-", "=", "+", "*", "%", "#"};
  const auto& shades = TerminalShowsBlocks() ? kBlocks : kPlain;
  if (entries <= 0 || most <= 0) return shades[0];
  const int64_t last = static_cast<int64_t>(shades.size()) - 1;
  return shades[static_cast<size_t>(
      std::clamp<int64_t>((entries * last + most - 1) / most, 1, last))];
}

// A row per layer, a column per KV head.
std::string Picture(const Counts& counts, int64_t n_tokens) {
  const size_t n_heads = counts.empty() ? 0 : counts.front().size();
  const int width = static_cast<int>(std::max<size_t>(5, n_heads));
  std::string text = fmt::format("layer  {:<{}}  {:>9}  {:>9}  {:>9}  entries per KV head\n",
                                 "heads", width, "least", "mean", "most");
  for (size_t layer = 0; layer < counts.size(); ++layer) {
    const auto [least, most] = std::minmax_element(counts[layer].begin(), counts[layer].end());
    std::string row;
    double sum = 0;
    for (int64_t entries : counts[layer]) {
      row += Shade(entries, n_tokens);
      sum += static_cast<double>(entries);
    }
    text += fmt::format("{:>5}  {}{}  {:>9}  {:>9.0f}  {:>9}\n", layer, row,
                        std::string(static_cast<size_t>(width) - n_heads, ' '), WithCommas(*least),
                        sum / static_cast<double>(n_heads), WithCommas(*most));
  }
  return text;
}

std::string PlanLine(const Plan& plan) {
  if (plan.keep.kind == Keep::Kind::kAll) return "keeps everything";
  std::string line =
      fmt::format("keep {} by {}, budget {}, window {}, sinks {}", plan.keep.ToString(),
                  plan.scorer, plan.budget, plan.window, plan.sinks);
  if (!plan.tiers.empty()) line += ", tiers " + TiersToString(plan.tiers);
  if (plan.skip_layers > 0) line += fmt::format(", first {} layers whole", plan.skip_layers);
  if (plan.chunkwise) line += ", chunk by chunk";
  return line;
}

uint64_t FullBytes(const SnapshotInfo& info) {
  return static_cast<uint64_t>(TokenCount(info)) * static_cast<uint64_t>(info.n_layers) *
         static_cast<uint64_t>(info.n_kv_heads) * static_cast<uint64_t>(info.head_dim) * 2 * 2;
}

std::string Description(const SnapshotInfo& info, const std::string& file) {
  const Counts counts = CountsOf(info);
  const int64_t n_tokens = TokenCount(info);
  const int64_t full = n_tokens * info.n_layers * info.n_kv_heads;
  const int64_t kept = Total(counts);
  std::string text = fmt::format("{}: snapshot, version {}\n", file, info.version);
  const auto row = [&](std::string_view name, const std::string& value) {
    text += fmt::format("{:<16}{}\n", Harmless(std::string(name)), Harmless(value));
  };
  row("model", fmt::format("{} ({}), {} layers x {} KV heads of {}", info.model_name,
                           info.model_fingerprint, info.n_layers, info.n_kv_heads, info.head_dim));
  row("plan", PlanLine(info.plan));
  for (const TierStats& tier : info.tiers) {
    row("stored",
        fmt::format("{} entries with keys in {} and values in {}, {}", WithCommas(tier.entries),
                    tier.key_codec, tier.value_codec, FormatBytes(tier.page_bytes)));
  }
  for (const TierStats& tier : info.tiers) {
    if (tier.codebook_bytes == 0) continue;
    row("codebooks",
        fmt::format("of the calibration, {} in memory", FormatBytes(tier.codebook_bytes)));
  }
  if (!info.calibration_hash.empty()) row("calibration", info.calibration_hash);
  row("tokens", WithCommas(n_tokens));
  row("entries",
      fmt::format("{} of {} ({:.1f} %)", WithCommas(kept), WithCommas(full),
                  full > 0 ? 100.0 * static_cast<double>(kept) / static_cast<double>(full) : 0.0));
  const uint64_t full_bytes = FullBytes(info);
  row("bytes",
      fmt::format("{}, {:.1f} % of the {} of a full f16 cache", FormatBytes(info.file_bytes),
                  full_bytes > 0 ? 100.0 * static_cast<double>(info.file_bytes) /
                                       static_cast<double>(full_bytes)
                                 : 0.0,
                  FormatBytes(full_bytes)));
  for (const auto& [name, value] : info.notes) row(name, value);
  text += "\n" + Picture(counts, n_tokens) + "\n";
  text += fmt::format("{:<20}{:>14}{:>14}  checksum\n", "section", "at byte", "bytes");
  for (const SnapshotSection& section : info.sections) {
    text += fmt::format("{:<20}{:>14}{:>14}  {}\n", Harmless(section.name),
                        WithCommas(static_cast<int64_t>(section.offset)),
                        WithCommas(static_cast<int64_t>(section.bytes)),
                        section.intact ? "right" : "WRONG");
  }
  return text;
}

Json ToJson(const SnapshotInfo& info, const std::string& file) {
  const Counts counts = CountsOf(info);
  Json out;
  out["file"] = file;
  out["version"] = info.version;
  out["bytes"] = info.file_bytes;
  out["intact"] = info.intact;
  out["model"] = info.model_name;
  out["model_fingerprint"] = info.model_fingerprint;
  out["calibration_hash"] = nullptr;
  if (!info.calibration_hash.empty()) out["calibration_hash"] = info.calibration_hash;
  out["n_layers"] = info.n_layers;
  out["n_kv_heads"] = info.n_kv_heads;
  out["head_dim"] = info.head_dim;
  out["tokens"] = TokenCount(info);
  out["entries"] = Total(counts);
  out["entries_full"] = TokenCount(info) * info.n_layers * info.n_kv_heads;
  out["entries_per_head"] = counts;
  out["kv_bytes_full"] = FullBytes(info);
  AddTiers(out, info.tiers);
  AddPlan(out, info.plan);
  out["notes"] = info.notes;
  out["sections"] = Json::array();
  for (const SnapshotSection& section : info.sections) {
    out["sections"].push_back({{"name", section.name},
                               {"offset", section.offset},
                               {"bytes", section.bytes},
                               {"intact", section.intact}});
  }
  return out;
}

}  // namespace

int Inspect(const Verb& verb, std::span<char* const> arguments) {
  std::string file;
  bool json = false;
  CommandLine line(verb.name, verb.summary);
  line.Positional("FILE", file,
                  "a file that pith compress (.pith) or pith calibrate (.pithcal) made");
  line.Flag("--json", json, "print everything as JSON");
  if (!line.Parse(arguments)) return kDone;
  if (IsCalibration(file)) {
    InspectCalibration(file, json);
    return kDone;
  }
  const SnapshotInfo info = InspectSnapshot(file);
  if (json) {
    PrintJson(ToJson(info, file));
  } else {
    Print(Description(info, file));
  }
  if (info.intact) return kDone;
  std::string damaged;
  for (const SnapshotSection& section : info.sections) {
    if (!section.intact) damaged += (damaged.empty() ? "" : ", ") + section.name;
  }
  if (damaged.empty()) Fail(ErrorCode::kFormat, "{} is damaged: its length is wrong", file);
  Fail(ErrorCode::kFormat, "{} is damaged: the checksum is wrong of {}", file, damaged);
}

}  // namespace pith::cli
