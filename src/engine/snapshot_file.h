// The layout of a `.pith` file (docs/formats.md): header, manifest, sections, and their checksums.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/snapshot_manifest.h"
#include "pith/session.h"

namespace pith {

inline constexpr int kSnapshotVersion = 1;
inline constexpr uint64_t kSnapshotAlignment = 4096;  // of everything in the file
inline constexpr uint64_t kMaxManifestBytes = uint64_t{4} << 20;

// In this order in the file.
enum class SnapshotPart { kTokens, kPositions, kWorth, kLogits, kPages };
inline constexpr std::array<std::string_view, 5> kSnapshotParts = {"tokens", "positions", "worth",
                                                                   "logits", "pages"};

// Bytes of a section come in pieces, each handed to a sink.
using ByteSink = std::function<void(std::span<const std::byte>)>;
using SectionSource = std::function<void(const ByteSink&)>;

// Writes the file from front to back. `manifest.sections` is filled in; each source is run twice,
// first for the checksum, and gives the same bytes both times. Throws Error(kInvalidArgument) when
// the notes are too long.
void WriteSnapshot(SnapshotManifest manifest,
                   const std::array<SectionSource, kSnapshotParts.size()>& sources,
                   const ByteSink& sink);

// Bytes of a snapshot, not yet trusted. `name` is for messages.
class SnapshotFile {
 public:
  // Verifies header, manifest and the place and length of every section before anything is made
  // from them. `bytes` must outlive the result and lie at a multiple of 64. A file that is cut
  // after its manifest is still parsed. Throws Error(kFormat), or kMismatch for another version.
  static SnapshotFile Parse(std::span<const std::byte> bytes, std::string name);

  const SnapshotManifest& manifest() const { return manifest_; }
  uint64_t wanted_bytes() const { return wanted_bytes_; }  // of the whole file

  // Empty if the section, and the zeros up to the next one, are as they were written; else what is
  // wrong with it.
  std::string Damage(SnapshotPart part) const;
  // Verifies every byte that Parse has not, and that the values make sense: positions within what
  // was read and once per head, worths that are numbers. Throws Error(kFormat) naming the section.
  void Verify() const;

  // What each tier holds, as the manifest says.
  std::vector<TierStats> tiers() const;

  // Of intact sections.
  std::span<const int32_t> tokens() const;  // [n_read]
  std::span<const float> logits() const;    // [n_vocab] or empty
  // Cache::AdoptedHead of every head, pointing into the file. [n_layers * n_kv_heads]
  std::vector<Cache::AdoptedHead> heads() const;

 private:
  SnapshotFile(std::span<const std::byte> bytes, std::string name)
      : bytes_(bytes), name_(std::move(name)) {}
  void ParseHeader();
  void CheckLayout() const;
  void CheckValues() const;
  const SnapshotManifest::Section& Section(SnapshotPart part) const;
  // The entries of a head in each tier of the plan.
  std::array<int64_t, kMaxTiers> EntriesByTier(size_t head) const;
  // Of the section, whose bytes must all be there.
  template <typename T>
  std::span<const T> Values(SnapshotPart part) const;
  // First of the zeros in [begin, end) that is none; `end` if all are.
  uint64_t FirstNonZero(uint64_t begin, uint64_t end) const;

  std::span<const std::byte> bytes_;
  std::string name_;
  uint64_t manifest_offset_ = 0;
  uint64_t manifest_bytes_ = 0;
  uint64_t wanted_bytes_ = 0;
  SnapshotManifest manifest_;
  std::vector<TierBytes> tier_bytes_;
};

}  // namespace pith
