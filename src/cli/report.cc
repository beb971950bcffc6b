#include "cli/report.h"

#include <errno.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/fail.h"

namespace pith::cli {
namespace {

// The value of "key : value" in a file under /proc; "" if there is none.
std::string ProcValue(const char* file, std::string_view key) {
  std::ifstream stream(file);
  std::string line;
  while (std::getline(stream, line)) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || !line.starts_with(key)) continue;
    const size_t start = line.find_first_not_of(" \t", colon + 1);
    return start == std::string::npos ? std::string() : line.substr(start);
  }
  return {};
}

}  // namespace

std::string WithCommas(int64_t number) {
  std::string digits = fmt::format("{}", number);
  const size_t first = number < 0 ? 1 : 0;
  for (size_t at = digits.size(); at > first + 3; at -= 3) digits.insert(at - 3, 1, ',');
  return digits;
}

std::string FormatBytes(uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  const char* unit = "B";
  for (const char* next : {"KiB", "MiB", "GiB", "TiB"}) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  return fmt::format("{:.1f} {}", value, unit);
}

std::string FormatDuration(double seconds) {
  if (seconds < 9.95) return fmt::format("{:.1f} s", seconds);
  const int64_t whole = std::llround(seconds);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

void Print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    Fail(ErrorCode::kIo, "cannot write to standard output: {}", std::strerror(errno));
  }
}

void PrintJson(const nlohmann::ordered_json& json) {
  Print(json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

void AddCacheStats(nlohmann::ordered_json& json, const CacheStats& stats) {
  json["tokens"] = stats.tokens;
  json["entries"] = stats.entries;
  json["entries_full"] = stats.entries_full;
  json["kv_bytes"] = stats.kv_bytes;
  json["kv_bytes_peak"] = stats.kv_bytes_peak;
  json["kv_bytes_shared"] = stats.kv_bytes_shared;
  json["kv_bytes_full"] = stats.kv_bytes_full;
  AddTiers(json, stats.tiers);
}

void AddTiers(nlohmann::ordered_json& json, const std::vector<TierStats>& tiers) {
  json["tiers"] = nlohmann::ordered_json::array();
  for (const TierStats& tier : tiers) {
    json["tiers"].push_back({{"key_codec", tier.key_codec},
                             {"value_codec", tier.value_codec},
                             {"entries", tier.entries},
                             {"page_bytes", tier.page_bytes},
                             {"codebook_bytes", tier.codebook_bytes}});
  }
}

void AddPlan(nlohmann::ordered_json& json, const Plan& plan) {
  json["keep"] = plan.keep.ToString();
  json["scorer"] = nullptr;
  json["budget"] = nullptr;
  json["head_floor"] = nullptr;
  if (plan.keep.kind != Keep::Kind::kAll) {
    json["scorer"] = plan.scorer;
    json["budget"] = plan.budget;
    if (plan.head_floor >= 0) json["head_floor"] = plan.head_floor;
  }
  json["chunkwise"] = plan.chunkwise;
  json["window"] = plan.window;
  json["sinks"] = plan.sinks;
  json["skip_layers"] = plan.skip_layers;
  json["key_codec"] = plan.key_codec;
  json["value_codec"] = plan.value_codec;
  if (!plan.tiers.empty()) json["tier_shares"] = TiersToString(plan.tiers);
}

std::string_view StopName(StopReason stop) {
  switch (stop) {
    case StopReason::kEndOfGeneration:
      return "end";
    case StopReason::kMaxTokens:
      return "length";
    case StopReason::kContextFull:
      return "context";
    case StopReason::kCancelled:
      break;
  }
  return "cancelled";
}

double PerSecond(int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0.0;
}

std::string CpuName() { return ProcValue("/proc/cpuinfo", "model name"); }

int DefaultThreads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

uint64_t PeakResidentBytes() {
  // VmHWM starts anew with the program; ru_maxrss would include what the parent held at the fork.
  const std::string line = ProcValue("/proc/self/status", "VmHWM");
  if (!line.empty()) return std::strtoull(line.c_str(), nullptr, 10) * 1024;
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace pith::cli
