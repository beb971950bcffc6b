// Results as people and programs read them, and what is known of the machine.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "pith/generate.h"
#include "pith/session.h"

namespace pith::cli {

std::string WithCommas(int64_t number);      // 12,345
std::string FormatBytes(uint64_t bytes);     // 12.3 MiB
std::string FormatDuration(double seconds);  // 0.42 s, 12 s, 3 min 05 s

// To standard output at once. Throws Error(kIo) if that fails.
void Print(std::string_view text);
// Indented, with a line break at the end.
void PrintJson(const nlohmann::ordered_json& json);

// `tiers`: a list of `key_codec`, `value_codec`, `entries`, `page_bytes` and `codebook_bytes`.
void AddTiers(nlohmann::ordered_json& json, const std::vector<TierStats>& tiers);
// `tokens`, `entries`, `entries_full`, `kv_bytes`, `kv_bytes_peak`, `kv_bytes_shared`,
// `kv_bytes_full`, `tiers`.
void AddCacheStats(nlohmann::ordered_json& json, const CacheStats& stats);
// `keep`; `scorer`, `budget` (null when everything is kept), `head_floor` (null: the budget's own);
// `chunkwise`, `window`, `sinks`, `skip_layers`, codecs, and `tier_shares` where there are any.
void AddPlan(nlohmann::ordered_json& json, const Plan& plan);
std::string_view StopName(StopReason stop);       // "end", "length", "context", "cancelled"
double PerSecond(int64_t count, double seconds);  // 0 when there was no time

std::string CpuName();         // "" if the system does not tell
int DefaultThreads();          // cores this process may use
uint64_t PeakResidentBytes();  // most physical memory this process ever held

}  // namespace pith::cli
