// Snapshots that pith keeps on its own, so that a document is read only once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "cli/command_line.h"
#include "pith/pith.h"

namespace pith::cli {

// A folder of files `<key>.pith`, of which it touches no others. Nothing that happens to it is a
// reason to fail: what cannot be read is read from the document, what cannot be written is told.
class SnapshotCache {
 public:
  // The oldest entries go when all together have more than `limit` bytes.
  SnapshotCache(std::filesystem::path folder, uint64_t limit)
      : folder_(std::move(folder)), limit_(limit) {}

  // 32 hex digits. Equal keys mean equal sessions: the same model, plan, tokens and batches.
  static std::string Key(const Model& model, const Plan& plan, const SessionOptions& options,
                         std::span<const Token> before, std::span<const Token> document);

  struct Hit {
    Session session;
    uint64_t bytes = 0;
  };
  // The entry, if it is there, whole, and has read `tokens`. One that is not is removed, with one
  // line on standard error.
  std::optional<Hit> Find(const std::string& key, const Model& model, const Plan& plan,
                          const SessionOptions& options, std::span<const Token> tokens) const;

  // Bytes of the new entry; 0, with one line on standard error, if it could not be written.
  uint64_t Store(const std::string& key, const Session& session,
                 const std::map<std::string, std::string>& notes) const;

 private:
  std::filesystem::path FileOf(const std::string& key) const { return folder_ / (key + ".pith"); }
  void DropOldest(const std::string& newest_key) const;

  std::filesystem::path folder_;
  uint64_t limit_;
};

// --cache-dir --no-cache --cache-limit
class CacheFlags {
 public:
  void AddTo(CommandLine& line);
  // Null for --no-cache, or when there is no home to put a folder into. Throws UsageError.
  std::unique_ptr<const SnapshotCache> Make() const;

 private:
  std::string folder_;
  std::string limit_ = "4GiB";
  bool off_ = false;
};

}  // namespace pith::cli
