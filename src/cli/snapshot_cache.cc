#include "cli/snapshot_cache.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <system_error>
#include <vector>

#include "cli/interrupt.h"
#include "engine/plan_calibration.h"

namespace pith::cli {
namespace {

namespace fs = std::filesystem;
using Clock = fs::file_time_type::clock;

constexpr size_t kKeyDigits = 32;
constexpr char kExtension[] = ".pith";

// Raised when the same key would mean another session, such as after a change of what a scorer
// does.
constexpr int kKeyVersion = 2;

// What a process that was killed while it wrote has left is removed after this time.
constexpr auto kLongestWrite = std::chrono::hours(1);

bool IsKey(const std::string& name) {
  return name.size() == kKeyDigits &&
         name.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// "<key>.pith"
bool IsEntry(const fs::path& file) {
  return file.extension() == kExtension && IsKey(file.stem().string());
}

// ".<key>.pith.<what the writer adds>"
bool IsHalfWritten(const fs::path& file) {
  const std::string name = file.filename().string();
  return name.size() > kKeyDigits + 1 && name.starts_with('.') &&
         IsKey(name.substr(1, kKeyDigits)) && name.substr(kKeyDigits + 1).starts_with(kExtension);
}

// Documents are nobody else's business: what is made is for the owner only.
void MakeFolder(const fs::path& folder) {
  std::error_code error;
  if (fs::exists(folder, error)) return;
  if (folder.has_parent_path()) fs::create_directories(folder.parent_path(), error);
  mkdir(folder.c_str(), S_IRWXU);
}

std::string PlanText(const Plan& plan) {
  const std::string tiers = plan.tiers.empty() ? "" : "|" + TiersToString(plan.tiers);
  return fmt::format("{}|{}|{}|{:a}|{}|{}|{}|{}|{}|{}|{}|{}{}", plan.keep.ToString(), plan.scorer,
                     plan.budget, plan.head_floor, plan.chunkwise, plan.key_codec, plan.value_codec,
                     plan.window, plan.sinks, plan.skip_layers, plan.seed, plan.kv_limit, tiers);
}

void Tell(const std::string& sentence) { fmt::print(stderr, "pith: {}\n", sentence); }

}  // namespace

std::string SnapshotCache::Key(const Model& model, const Plan& plan, const SessionOptions& options,
                               std::span<const Token> before, std::span<const Token> document) {
  std::string all;
  const auto add_bytes = [&](const void* bytes, size_t count) {
    const uint64_t size = count;
    all.append(reinterpret_cast<const char*>(&size), sizeof(size));
    all.append(static_cast<const char*>(bytes), count);
  };
  const auto add_text = [&](const std::string& text) { add_bytes(text.data(), text.size()); };
  add_text(fmt::format("{} {} {}", kKeyVersion, options.n_batch, model.info().fingerprint));
  add_text(PlanText(plan));
  add_text(CalibrationHash(plan));
  add_bytes(before.data(), before.size_bytes());
  add_bytes(document.data(), document.size_bytes());
  const XXH128_hash_t hash = XXH3_128bits(all.data(), all.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::optional<SnapshotCache::Hit> SnapshotCache::Find(const std::string& key, const Model& model,
                                                      const Plan& plan,
                                                      const SessionOptions& options,
                                                      std::span<const Token> tokens) const {
  const fs::path file = FileOf(key);
  std::error_code error;
  if (!fs::exists(file, error)) return std::nullopt;
  std::string reason = "it holds another text";
  try {
    Hit hit{Session::Load(model, file, options, plan.calibration), fs::file_size(file, error)};
    if (std::ranges::equal(hit.session.tokens(), tokens)) {
      fs::last_write_time(file, Clock::now(), error);
      return hit;
    }
  } catch (const Error& failure) {
    // Another process may have dropped it meanwhile.
    if (failure.code() == ErrorCode::kNotFound) return std::nullopt;
    reason = failure.what();
  }
  Tell(fmt::format("what was kept of this document is of no use, it is read again: {}", reason));
  fs::remove(file, error);
  return std::nullopt;
}

uint64_t SnapshotCache::Store(const std::string& key, const Session& session,
                              const std::map<std::string, std::string>& notes) const {
  uint64_t bytes = 0;
  try {
    MakeFolder(folder_);
    const UninterruptedScope writing;
    session.Save(FileOf(key), notes);
    bytes = fs::file_size(FileOf(key));
  } catch (const std::exception& failure) {
    Tell(
        fmt::format("the answer is not affected, but the next question reads the document again: "
                    "{}",
                    failure.what()));
  }
  DropOldest(key);
  return bytes;
}

void SnapshotCache::DropOldest(const std::string& newest_key) const {
  struct Entry {
    fs::path file;
    fs::file_time_type used;
    uint64_t bytes = 0;
  };
  std::vector<Entry> entries;
  uint64_t total = 0;
  std::error_code error;
  for (fs::directory_iterator at(folder_, error), end; !error && at != end; at.increment(error)) {
    // Other processes add and remove files at the same time.
    std::error_code gone;
    const fs::path& file = at->path();
    const fs::file_time_type used = fs::last_write_time(file, gone);
    const uint64_t bytes = gone ? 0 : fs::file_size(file, gone);
    if (gone) continue;
    if (IsEntry(file)) {
      entries.push_back({file, used, bytes});
      total += bytes;
    } else if (IsHalfWritten(file) && Clock::now() - used > kLongestWrite) {
      fs::remove(file, gone);
    }
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.used < b.used; });
  for (const Entry& entry : entries) {
    if (total <= limit_) break;
    if (entry.file.stem() == newest_key) continue;
    fs::remove(entry.file, error);
    total -= entry.bytes;
  }
}

void CacheFlags::AddTo(CommandLine& line) {
  line.Group("Cache of documents");
  line.Option("--cache-dir", folder_, "DIR",
              "where what was read is kept for the next question (default: $PITH_CACHE, or pith in "
              "$XDG_CACHE_HOME or in ~/.cache)");
  line.Option("--cache-limit", limit_, "SIZE", "bytes kept there at most, oldest first to go");
  line.Flag("--no-cache", off_, "read the document anew, keep nothing");
}

std::unique_ptr<const SnapshotCache> CacheFlags::Make() const {
  const uint64_t limit = AsUsage([&] { return ParseBytes(limit_); });
  if (off_) return nullptr;
  const auto environment = [](const char* name) -> fs::path {
    const char* value = std::getenv(name);
    return value != nullptr ? value : "";
  };
  fs::path folder = folder_;
  if (folder.empty()) folder = environment("PITH_CACHE");
  if (folder.empty() && !environment("XDG_CACHE_HOME").empty()) {
    folder = environment("XDG_CACHE_HOME") / "pith";
  }
  if (folder.empty() && !environment("HOME").empty()) {
    folder = environment("HOME") / ".cache" / "pith";
  }
  if (folder.empty()) return nullptr;
  return std::make_unique<const SnapshotCache>(std::move(folder), limit);
}

}  // namespace pith::cli
