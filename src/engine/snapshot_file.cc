#include "engine/snapshot_file.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "base/fail.h"
#include "base/printable.h"
#include "engine/plan_calibration.h"

namespace pith {
namespace {

static_assert(std::endian::native == std::endian::little, "snapshots are read in place");

constexpr std::array<char, 8> kMagic = {'P', 'I', 'T', 'H', 'S', 'N', 'A', 'P'};
constexpr uint64_t kHeaderBytes = 4096;
constexpr uint64_t kMaxLogitsBytes = uint64_t{1} << 32;

// The header's fields; zeros follow up to its checksum in the last eight bytes.
struct Header {
  std::array<char, 8> magic = kMagic;
  uint32_t version = kSnapshotVersion;
  uint32_t header_bytes = kHeaderBytes;
  uint64_t manifest_offset = kHeaderBytes;
  uint64_t manifest_bytes = 0;
  uint64_t file_bytes = 0;
  uint64_t manifest_xxh3 = 0;
};
static_assert(sizeof(Header) == 48);
constexpr uint64_t kHeaderHashed = kHeaderBytes - sizeof(uint64_t);

uint64_t Aligned(uint64_t offset) {
  return (offset + kSnapshotAlignment - 1) / kSnapshotAlignment * kSnapshotAlignment;
}

uint64_t PagesFor(int64_t n_entries) {
  return static_cast<uint64_t>((n_entries + kPageEntries - 1) / kPageEntries);
}

uint64_t Hash(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

struct HashStateDeleter {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

struct Measured {
  uint64_t bytes = 0;
  uint64_t xxh3 = 0;
};

Measured Measure(const SectionSource& source) {
  const std::unique_ptr<XXH3_state_t, HashStateDeleter> state(XXH3_createState());
  XXH3_64bits_reset(state.get());
  Measured measured;
  source([&](std::span<const std::byte> bytes) {
    XXH3_64bits_update(state.get(), bytes.data(), bytes.size());
    measured.bytes += bytes.size();
  });
  measured.xxh3 = XXH3_64bits_digest(state.get());
  return measured;
}

// Places the sections one after another behind a manifest of the given length.
uint64_t Place(std::vector<SnapshotManifest::Section>& sections, uint64_t manifest_bytes) {
  uint64_t end = kHeaderBytes + manifest_bytes;
  for (auto& section : sections) {
    section.offset = Aligned(end);
    end = section.offset + section.bytes;
  }
  return Aligned(end);
}

}  // namespace

void WriteSnapshot(SnapshotManifest manifest,
                   const std::array<SectionSource, kSnapshotParts.size()>& sources,
                   const ByteSink& sink) {
  manifest.sections.clear();
  for (size_t i = 0; i < sources.size(); ++i) {
    const Measured measured = Measure(sources[i]);
    manifest.sections.push_back({std::string(kSnapshotParts[i]), 0, measured.bytes, measured.xxh3});
  }
  // Offsets stand in the manifest, whose length decides them; it only grows until they fit.
  std::string text = ManifestText(manifest);
  Header header;
  for (size_t before = 0; before != text.size();) {
    before = text.size();
    header.file_bytes = Place(manifest.sections, before);
    text = ManifestText(manifest);
  }
  if (text.size() > kMaxManifestBytes) {
    Fail(ErrorCode::kInvalidArgument, "notes that take {} bytes do not fit into a snapshot",
         text.size());
  }
  const auto text_bytes = std::as_bytes(std::span(text));
  header.manifest_bytes = text.size();
  header.manifest_xxh3 = Hash(text_bytes);
  std::vector<std::byte> head(kHeaderBytes);
  std::memcpy(head.data(), &header, sizeof(header));
  const uint64_t head_hash = Hash(std::span(head).first(kHeaderHashed));
  std::memcpy(head.data() + kHeaderHashed, &head_hash, sizeof(head_hash));

  const std::vector<std::byte> zeros(kSnapshotAlignment);
  uint64_t written = 0;
  const ByteSink counted = [&](std::span<const std::byte> bytes) {
    sink(bytes);
    written += bytes.size();
  };
  const auto pad = [&] { counted(std::span(zeros).first(Aligned(written) - written)); };
  counted(head);
  counted(text_bytes);
  pad();
  for (const SectionSource& source : sources) {
    source(counted);
    pad();
  }
}

SnapshotFile SnapshotFile::Parse(std::span<const std::byte> bytes, std::string name) {
  SnapshotFile file(bytes, std::move(name));
  file.ParseHeader();
  const auto text = bytes.subspan(file.manifest_offset_, file.manifest_bytes_);
  file.manifest_ =
      ParseManifest({reinterpret_cast<const char*>(text.data()), text.size()}, file.name_);
  const Plan& plan = file.manifest_.plan;
  file.tier_bytes_ = BytesOfTiers(plan.StoredTiers(), file.manifest_.shape.head_dim);
  file.CheckLayout();
  return file;
}

void SnapshotFile::ParseHeader() {
  Header header;
  if (bytes_.size() < sizeof(kMagic) || std::memcmp(bytes_.data(), &kMagic, sizeof(kMagic)) != 0) {
    Fail(ErrorCode::kFormat, "{}: is not a snapshot, or its first bytes are damaged", name_);
  }
  if (bytes_.size() < kHeaderBytes) {
    Fail(ErrorCode::kFormat, "{}: is cut within its header: {} bytes of at least {}", name_,
         bytes_.size(), kHeaderBytes);
  }
  std::memcpy(&header, bytes_.data(), sizeof(header));
  uint64_t wanted = 0;
  std::memcpy(&wanted, bytes_.data() + kHeaderHashed, sizeof(wanted));
  const uint64_t found = Hash(bytes_.first(kHeaderHashed));
  if (found != wanted) {
    Fail(ErrorCode::kFormat, "{}: the header is damaged: checksum {}, expected {}", name_,
         HashText(found), HashText(wanted));
  }
  if (header.version != kSnapshotVersion) {
    Fail(ErrorCode::kMismatch, "{}: is a snapshot of version {}, this program reads version {}",
         name_, header.version, kSnapshotVersion);
  }
  if (header.header_bytes != kHeaderBytes || header.manifest_offset != kHeaderBytes ||
      header.manifest_bytes > kMaxManifestBytes ||
      FirstNonZero(sizeof(header), kHeaderHashed) != kHeaderHashed) {
    Fail(ErrorCode::kFormat, "{}: the header is wrong: header of {} bytes, manifest of {} at {}",
         name_, header.header_bytes, header.manifest_bytes, header.manifest_offset);
  }
  manifest_offset_ = header.manifest_offset;
  manifest_bytes_ = header.manifest_bytes;
  wanted_bytes_ = header.file_bytes;
  if (bytes_.size() < manifest_offset_ + manifest_bytes_) {
    Fail(ErrorCode::kFormat, "{}: is cut within its manifest: {} bytes, expected {}", name_,
         bytes_.size(), wanted_bytes_);
  }
  const uint64_t manifest_hash = Hash(bytes_.subspan(manifest_offset_, manifest_bytes_));
  if (manifest_hash != header.manifest_xxh3) {
    Fail(ErrorCode::kFormat, "{}: the manifest is damaged: checksum {}, expected {}", name_,
         HashText(manifest_hash), HashText(header.manifest_xxh3));
  }
  const uint64_t padding_end =
      std::min<uint64_t>(Aligned(manifest_offset_ + manifest_bytes_), bytes_.size());
  const uint64_t dirt = FirstNonZero(manifest_offset_ + manifest_bytes_, padding_end);
  if (dirt != padding_end) {
    Fail(ErrorCode::kFormat, "{}: the padding of the manifest is damaged at byte {}", name_, dirt);
  }
}

// Where each section must lie follows from the manifest, so that none can overlap or be forgotten.
void SnapshotFile::CheckLayout() const {
  uint64_t n_entries = 0, page_bytes = 0;
  for (size_t head = 0; head < manifest_.entries.size(); ++head) {
    n_entries += static_cast<uint64_t>(manifest_.entries[head]);
    const auto by_tier = EntriesByTier(head);
    for (size_t t = 0; t < tier_bytes_.size(); ++t) {
      page_bytes += PagesFor(by_tier[t]) * tier_bytes_[t].page;
    }
  }
  if (manifest_.sections.size() != kSnapshotParts.size()) {
    Fail(ErrorCode::kFormat, "{}: the manifest is wrong: it has {} sections, expected {}", name_,
         manifest_.sections.size(), kSnapshotParts.size());
  }
  const uint64_t logits_bytes = Section(SnapshotPart::kLogits).bytes;
  if (logits_bytes % sizeof(float) != 0 || logits_bytes > kMaxLogitsBytes) {
    Fail(ErrorCode::kFormat, "{}: the manifest is wrong: {} bytes of logits", name_, logits_bytes);
  }
  const std::array<uint64_t, kSnapshotParts.size()> wanted = {
      static_cast<uint64_t>(manifest_.n_read) * sizeof(int32_t), n_entries * sizeof(int32_t),
      n_entries * sizeof(float), logits_bytes, page_bytes};
  uint64_t end = manifest_offset_ + manifest_bytes_;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const auto& section = manifest_.sections[i];
    if (section.name != kSnapshotParts[i] || section.bytes != wanted[i] ||
        section.offset != Aligned(end)) {
      Fail(
          ErrorCode::kFormat,
          "{}: the manifest is wrong: section {} has {} bytes at {}, expected \"{}\" with {} at {}",
          name_, Printable(section.name), section.bytes, section.offset, kSnapshotParts[i],
          wanted[i], Aligned(end));
    }
    end = section.offset + section.bytes;
  }
  if (Aligned(end) != wanted_bytes_) {
    Fail(ErrorCode::kFormat, "{}: the manifest is wrong: its sections end at {}, the file at {}",
         name_, end, wanted_bytes_);
  }
}

std::array<int64_t, kMaxTiers> SnapshotFile::EntriesByTier(size_t head) const {
  std::array<int64_t, kMaxTiers> n = {manifest_.entries[head]};
  for (size_t t = 0; t < manifest_.coded.size(); ++t) {
    n[t + 1] = manifest_.coded[t][head];
    n[0] -= n[t + 1];
  }
  return n;
}

const SnapshotManifest::Section& SnapshotFile::Section(SnapshotPart part) const {
  return manifest_.sections[static_cast<size_t>(part)];
}

std::string SnapshotFile::Damage(SnapshotPart part) const {
  const auto& section = Section(part);
  const uint64_t end = Aligned(section.offset + section.bytes);
  if (end > bytes_.size()) {
    return fmt::format("the file is cut at byte {}, it should reach to {}", bytes_.size(), end);
  }
  const uint64_t found = Hash(bytes_.subspan(section.offset, section.bytes));
  if (found != section.xxh3) {
    return fmt::format("checksum {}, expected {}", HashText(found), HashText(section.xxh3));
  }
  const uint64_t dirt = FirstNonZero(section.offset + section.bytes, end);
  return dirt == end ? "" : fmt::format("byte {} of its padding is not zero", dirt);
}

void SnapshotFile::Verify() const {
  for (size_t i = 0; i < kSnapshotParts.size(); ++i) {
    const std::string damage = Damage(static_cast<SnapshotPart>(i));
    if (!damage.empty()) {
      Fail(ErrorCode::kFormat, "{}: section \"{}\" is damaged: {}", name_, kSnapshotParts[i],
           damage);
    }
  }
  if (bytes_.size() != wanted_bytes_) {
    Fail(ErrorCode::kFormat, "{}: {} bytes follow the end of the snapshot", name_,
         bytes_.size() - wanted_bytes_);
  }
  CheckValues();
}

void SnapshotFile::CheckValues() const {
  for (const int32_t token : tokens()) {
    if (token < 0) Fail(ErrorCode::kFormat, "{}: section \"tokens\" has a token {}", name_, token);
  }
  std::vector<bool> seen(static_cast<size_t>(manifest_.n_read));
  for (const Cache::AdoptedHead& head : heads()) {
    for (const int32_t position : head.positions) {
      if (position < 0 || position >= manifest_.n_read || seen[static_cast<size_t>(position)]) {
        Fail(ErrorCode::kFormat,
             "{}: section \"positions\" has a {} that comes twice in a head or is outside the {} "
             "tokens read",
             name_, position, manifest_.n_read);
      }
      seen[static_cast<size_t>(position)] = true;
    }
    for (const int32_t position : head.positions) seen[static_cast<size_t>(position)] = false;
    if (std::ranges::any_of(head.worth, [](float worth) { return std::isnan(worth); })) {
      Fail(ErrorCode::kFormat, "{}: section \"worth\" has a value that is not a number", name_);
    }
  }
}

template <typename T>
std::span<const T> SnapshotFile::Values(SnapshotPart part) const {
  const auto& section = Section(part);
  return {reinterpret_cast<const T*>(bytes_.data() + section.offset), section.bytes / sizeof(T)};
}

std::span<const int32_t> SnapshotFile::tokens() const {
  return Values<int32_t>(SnapshotPart::kTokens);
}

std::span<const float> SnapshotFile::logits() const { return Values<float>(SnapshotPart::kLogits); }

std::vector<TierStats> SnapshotFile::tiers() const {
  std::vector<TierStats> tiers;
  for (const Tier& tier : manifest_.plan.StoredTiers()) {
    tiers.push_back({tier.key_codec, tier.value_codec});
  }
  for (size_t head = 0; head < manifest_.entries.size(); ++head) {
    const auto by_tier = EntriesByTier(head);
    for (size_t t = 0; t < tiers.size(); ++t) {
      tiers[t].entries += by_tier[t];
      tiers[t].page_bytes += PagesFor(by_tier[t]) * tier_bytes_[t].page;
      tiers[t].codebook_bytes += tier_bytes_[t].codebooks_per_head;
    }
  }
  return tiers;
}

std::vector<Cache::AdoptedHead> SnapshotFile::heads() const {
  auto positions = Values<int32_t>(SnapshotPart::kPositions);
  auto worth = Values<float>(SnapshotPart::kWorth);
  const std::byte* pages = bytes_.data() + Section(SnapshotPart::kPages).offset;
  std::vector<Cache::AdoptedHead> heads;
  heads.reserve(manifest_.entries.size());
  for (size_t i = 0; i < manifest_.entries.size(); ++i) {
    const size_t n = static_cast<size_t>(manifest_.entries[i]);
    heads.push_back({positions.first(n), worth.first(n), {}});
    Cache::AdoptedHead& head = heads.back();
    positions = positions.subspan(n);
    worth = worth.subspan(n);
    const auto by_tier = EntriesByTier(i);
    for (size_t t = tier_bytes_.size(); t-- > 0;) {
      head.tiers[t] = {by_tier[t], pages};
      pages += PagesFor(by_tier[t]) * tier_bytes_[t].page;
    }
  }
  return heads;
}

uint64_t SnapshotFile::FirstNonZero(uint64_t begin, uint64_t end) const {
  const auto range = bytes_.subspan(begin, end - begin);
  const auto dirt = std::ranges::find_if(range, [](std::byte b) { return b != std::byte{0}; });
  return begin + static_cast<uint64_t>(dirt - range.begin());
}

}  // namespace pith
