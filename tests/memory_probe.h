// What the operating system says of this process's memory.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>

namespace pith {

// Sanitizers keep memory of their own, so that what the system sees says nothing.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PITH_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PITH_SANITIZED 1
#endif
#endif
#ifdef PITH_SANITIZED
inline constexpr bool kSystemMemoryTells = false;
#else
inline constexpr bool kSystemMemoryTells = true;
#endif

// A field of /proc/self/status in bytes: "VmRSS" (now) or "VmHWM" (peak).
inline uint64_t SystemMemory(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field + ":")) return std::stoull(line.substr(field.size() + 1)) * 1024;
  }
  return 0;
}

}  // namespace pith
