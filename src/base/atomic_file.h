// Writing a file so that a reader, or a crash, sees the old one or the new one, never half.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace pith {

// Written piece by piece under a temporary name in the same folder, or under no name where the
// system can do that, and put in the place of `file` by Commit. Without Commit, or on any failure,
// nothing is left behind and `file` is untouched. A process that is killed leaves at most a file
// `.NAME.*.tmp`, which blocks nobody. Throws Error(kIo) with the system's reason.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& file);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void Write(std::span<const std::byte> bytes);  // after what was written before
  void Commit();                                 // syncs and renames; once, as the last call

 private:
  void OpenUnnamed();
  void OpenNamed();
  void NextTemporaryName();
  void GiveName();
  [[noreturn]] void FailWrite(int error) const;

  std::filesystem::path target_;
  std::filesystem::path folder_;
  std::filesystem::path temporary_;  // empty: there is no name to remove
  int descriptor_ = -1;
};

// Writes all at once. Throws as AtomicFile does.
void WriteFileAtomically(const std::filesystem::path& file, std::span<const std::byte> bytes);

}  // namespace pith
