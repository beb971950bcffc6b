// Changing the bytes of a `.pith` file so that its checksums are right again.
#pragma once

#include <xxhash.h>

#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

namespace pith::testing {

// Layout as in docs/formats.md.
inline constexpr size_t kPithHeader = 4096;
inline constexpr size_t kPithManifestBytes = 24;
inline constexpr size_t kPithFileBytes = 32;
inline constexpr size_t kPithManifestHash = 40;
inline constexpr size_t kPithHeaderHash = kPithHeader - 8;

inline uint64_t PithU64(const std::string& bytes, size_t offset) {
  uint64_t value = 0;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

inline void SetPithU64(std::string& bytes, size_t offset, uint64_t value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(value));
}

inline std::string PithManifest(const std::string& bytes) {
  return bytes.substr(kPithHeader, PithU64(bytes, kPithManifestBytes));
}

inline void SealHeader(std::string& bytes) {
  SetPithU64(bytes, kPithHeaderHash, XXH3_64bits(bytes.data(), kPithHeaderHash));
}

// With another manifest, which may make the file as a whole shorter or longer.
inline std::string WithManifest(const std::string& bytes, const std::string& manifest) {
  const auto padded = [](size_t n) { return (n + 4095) / 4096 * 4096; };
  std::string out = bytes.substr(0, kPithHeader) + manifest;
  out.resize(padded(out.size()));
  const size_t rest = padded(kPithHeader + PithU64(bytes, kPithManifestBytes));
  if (rest < bytes.size()) out += bytes.substr(rest);
  SetPithU64(out, kPithManifestBytes, manifest.size());
  SetPithU64(out, kPithFileBytes, out.size());
  SetPithU64(out, kPithManifestHash, XXH3_64bits(manifest.data(), manifest.size()));
  SealHeader(out);
  return out;
}

inline std::string ReplaceInManifest(const std::string& bytes, const std::string& from,
                                     const std::string& to) {
  std::string manifest = PithManifest(bytes);
  const size_t at = manifest.find(from);
  if (at == std::string::npos) return bytes;
  return WithManifest(bytes, manifest.replace(at, from.size(), to));
}

// Writes the checksums that the sections have now.
inline void SealSections(std::string& bytes) {
  auto manifest = nlohmann::json::parse(PithManifest(bytes));
  for (auto& section : manifest.at("sections")) {
    const auto hash = XXH3_64bits(bytes.data() + section.at("offset").get<size_t>(),
                                  section.at("bytes").get<size_t>());
    char text[17];
    snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(hash));
    section["xxh3"] = text;
  }
  bytes = WithManifest(bytes, manifest.dump());
}

}  // namespace pith::testing
