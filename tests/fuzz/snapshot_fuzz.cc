// The reader of saved sessions, on manifests and contents whose checksums are right.
#include <xxhash.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "engine/plan_calibration.h"
#include "engine/snapshot_bytes.h"
#include "engine/snapshot_file.h"
#include "fuzz/seeds.h"
#include "pith/error.h"
#include "tools/random_codebooks.h"

namespace {

using nlohmann::json;
using pith::testing::WithManifest;

constexpr size_t kMaxFile = size_t{1} << 18;

// An input is one byte of flags, two of the manifest's length, the manifest, and what the sections
// hold one after another, without the zeros between them.
enum Flags : uint8_t { kRaw = 1, kUnsealed = 2, kCut = 4 };

std::string Input(uint8_t flags, const std::string& manifest, const std::string& contents) {
  std::string input(3, '\0');
  input[0] = static_cast<char>(flags);
  input[1] = static_cast<char>(manifest.size() & 255);
  input[2] = static_cast<char>(manifest.size() >> 8);
  return input + manifest + contents;
}

std::string Header() {
  std::string header(pith::testing::kPithHeader, '\0');
  header.replace(0, 8, "PITHSNAP");
  header[8] = 1;
  header[13] = 16;                                       // 4096
  pith::testing::SetPithU64(header, 16, header.size());  // the manifest's place
  return header;
}

// The file that an input stands for.
std::string File(std::string_view input) {
  if (input.size() < 3 || (input[0] & kRaw)) return std::string(input.substr(!input.empty()));
  const size_t n = std::min<size_t>(
      static_cast<uint8_t>(input[1]) | static_cast<size_t>(static_cast<uint8_t>(input[2])) << 8,
      input.size() - 3);
  std::string manifest(input.substr(3, n));
  std::string_view contents = input.substr(3 + n);
  std::string bytes = WithManifest(Header(), manifest);
  json parsed = json::parse(manifest, nullptr, false);
  if (parsed.is_object() && parsed.contains("sections") && parsed["sections"].is_array()) {
    for (json& section : parsed["sections"]) {
      if (!section.is_object() || !section.contains("offset") || !section.contains("bytes") ||
          !section["offset"].is_number_unsigned() || !section["bytes"].is_number_unsigned()) {
        continue;
      }
      const auto offset = section["offset"].get<uint64_t>(),
                 size = section["bytes"].get<uint64_t>();
      if (offset > kMaxFile || size > kMaxFile) continue;
      if (bytes.size() < offset + size) bytes.resize((offset + size + 4095) / 4096 * 4096);
      const auto part = contents.substr(0, size);
      std::copy(part.begin(), part.end(), bytes.begin() + static_cast<ptrdiff_t>(offset));
      contents.remove_prefix(part.size());
      section["xxh3"] = pith::HashText(XXH3_64bits(bytes.data() + offset, size));
    }
    if (!(input[0] & kUnsealed)) {
      manifest = parsed.dump(-1, ' ', false, json::error_handler_t::replace);
    }
  }
  bytes = WithManifest(bytes, manifest);
  if (input[0] & kCut) bytes.resize(bytes.size() - bytes.size() / 5);
  return bytes;
}

// As a mapped file lies.
std::shared_ptr<std::byte> AlignedCopy(const std::string& file) {
  std::shared_ptr<std::byte> memory(
      static_cast<std::byte*>(std::aligned_alloc(64, (file.size() + 64) / 64 * 64)), std::free);
  std::memcpy(memory.get(), file.data(), file.size());
  return memory;
}

// What a session does with a cache that it has loaded.
void Use(const pith::SnapshotFile& file, std::shared_ptr<const void> owner) {
  const auto& manifest = file.manifest();
  const auto& plan = manifest.plan;
  const auto& shape = manifest.shape;
  pith::PqCodebooks codebooks;
  std::vector<std::string> pq;
  bool low_rank = false;
  for (const pith::Tier& tier : plan.StoredTiers()) {
    if (tier.key_codec.starts_with("pq")) pq.push_back(tier.key_codec);
    low_rank |= tier.key_codec.starts_with("lr");
  }
  if (low_rank || !pq.empty()) {
    // Codebooks of more take longer than what is tried here.
    if (shape.head_dim > 16 || int64_t{shape.n_layers} * shape.n_kv_heads > 4) return;
    codebooks =
        pith::testing::RandomCodebooks(shape.n_layers, shape.n_kv_heads, shape.head_dim, pq, 1, 1);
  }
  pith::Cache cache(shape, pith::MakeTiers(plan.StoredTiers(), shape.head_dim, &codebooks),
                    plan.kv_limit);
  cache.Adopt(file.heads(), std::move(owner));
  pith::Cache fork = cache.Fork();
  fork.DropFrom(static_cast<int32_t>(manifest.n_read / 2));
  std::vector<float> key(static_cast<size_t>(manifest.shape.head_dim)), value(key);
  for (int layer = 0; layer < manifest.shape.n_layers; ++layer) {
    for (int h = 0; h < manifest.shape.n_kv_heads; ++h) {
      const int64_t n = cache.n_entries(layer, h);
      if (n > 0) cache.Read(layer, h, n - 1, key.data(), value.data());
      const int32_t first = 0;
      const auto last = static_cast<int32_t>(fork.n_entries(layer, h) - 1);
      if (fork.n_tiers() > 1 && fork.n_entries(layer, h, 0) > 0) {
        fork.MoveDown(layer, h, {&last, 1}, fork.n_tiers() - 1);
      }
      if (last >= 0) fork.Evict(layer, h, {&first, 1});
    }
  }
  fork.BeginChunk(3, static_cast<int32_t>(manifest.n_read));
  fork.EndChunk();
}

std::string Seed(const std::string& keep, int n_layers, int n_kv_heads, int n_tokens, int n_logits,
                 const std::string& keys = "f16", const std::string& values = "f16",
                 const std::string& tiers = "") {
  pith::SnapshotManifest manifest;
  manifest.model_name = "m";
  manifest.model_fingerprint = "0123456789abcdef";
  manifest.shape = {n_layers, n_kv_heads, 8};
  manifest.plan.scorer = "knorm";
  manifest.plan.key_codec = keys;
  manifest.plan.value_codec = values;
  if (!keep.empty()) manifest.plan.keep = pith::Keep::Parse(keep);
  if (!tiers.empty()) {
    manifest.plan.tiers = pith::ParseTiers(tiers);
    manifest.plan.keep = pith::KeepOf(manifest.plan.tiers);
  }
  const std::string codecs = keys + tiers;
  if (codecs.find("pq") != codecs.npos || codecs.find("lr") != codecs.npos) {
    manifest.calibration_hash = "0123456789abcdef";
  }
  const auto bytes_of = pith::BytesOfTiers(manifest.plan.StoredTiers(), manifest.shape.head_dim);
  manifest.coded.resize(bytes_of.size() - 1);
  manifest.n_read = n_tokens;
  manifest.notes = {{"document", "\xe2\x82\xac"}};
  std::string positions, worth, pages, tokens, logits(static_cast<size_t>(n_logits) * 4, '\1');
  for (int32_t i = 0; i < n_tokens; ++i) tokens.append(reinterpret_cast<char*>(&i), 4);
  for (int h = 0; h < n_layers * n_kv_heads; ++h) {
    const int n = std::max(0, n_tokens - h);
    manifest.entries.push_back(n);
    positions += tokens.substr(0, static_cast<size_t>(n) * 4);
    worth += std::string(static_cast<size_t>(n) * 4, '\2');
    int exact = n;
    for (size_t tier = bytes_of.size() - 1; tier > 0; --tier) {
      const int coded = n * 2 / 3 / static_cast<int>(manifest.coded.size());
      manifest.coded[tier - 1].push_back(coded);
      pages += std::string((coded + 63) / 64 * bytes_of[tier].page, '\4');
      exact -= coded;
    }
    pages += std::string((exact + 63) / 64 * bytes_of[0].page, '\3');
  }
  const auto source = [](const std::string& text) {
    return [&text](const pith::ByteSink& sink) { sink(std::as_bytes(std::span(text))); };
  };
  std::string bytes;
  pith::WriteSnapshot(
      manifest, {source(tokens), source(positions), source(worth), source(logits), source(pages)},
      [&](std::span<const std::byte> piece) {
        bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
      });
  return Input(0, pith::testing::PithManifest(bytes), tokens + positions + worth + logits + pages);
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  std::vector<std::string> seeds = {
      Seed("", 1, 1, 0, 0),
      Seed("50%", 2, 1, 3, 0),
      Seed("200", 1, 2, 70, 5),
      Seed("tau=-2.5", 2, 2, 10, 3),
      Seed("64MiB", 1, 1, 5, 1),
      Seed("50%", 1, 2, 100, 2, "q8", "q8"),
      Seed("", 2, 1, 30, 0, "q4", "q4"),
      Seed("", 1, 2, 90, 0, "pq8x4", "q4"),
      Seed("50%", 2, 1, 70, 1, "pq4x2", "f16"),
      Seed("", 1, 2, 80, 0, "lr8q4", "q8"),
      Seed("", 1, 1, 99, 0, "f16", "f16", "f16:10%,q8:9%,pq8x2/q8:50%")};
  const std::string file = File(seeds[1]);
  seeds.push_back(std::string(1, char{kRaw}) + file.substr(0, 4096 + 1024));
  // A seed that the reader refuses would leave most of it untested.
  for (const std::string& seed : {file, File(seeds[5]), File(seeds[7]), File(seeds[9])}) {
    const auto memory = AlignedCopy(seed);
    pith::SnapshotFile::Parse({memory.get(), seed.size()}, "seed").Verify();
  }
  pith::testing::WriteSeeds(*argc, *argv, seeds);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string file = File({reinterpret_cast<const char*>(data), size});
  const auto memory = AlignedCopy(file);
  try {
    const auto snapshot = pith::SnapshotFile::Parse({memory.get(), file.size()}, "fuzz");
    for (size_t part = 0; part < pith::kSnapshotParts.size(); ++part) {
      snapshot.Damage(static_cast<pith::SnapshotPart>(part));
    }
    snapshot.Verify();
    Use(snapshot, memory);
  } catch (const pith::Error&) {
  }
  return 0;
}
