#include "base/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <string>
#include <system_error>

#include "base/fail.h"

namespace pith {
namespace {

std::string Reason(int error) { return std::generic_category().message(error); }

// A file under a temporary name, removed unless it has been renamed.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::filesystem::path& target) : target_(target) {
    static std::atomic<unsigned> counter = 0;
    // Names left by a process that was killed do not block this one.
    constexpr int kTries = 100;
    for (int i = 0; i < kTries && descriptor_ < 0; ++i) {
      path_ = target;
      path_.replace_filename(
          fmt::format(".{}.{}-{}.tmp", target.filename().string(), getpid(), counter++));
      descriptor_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (descriptor_ < 0 && errno != EEXIST) break;
    }
    if (descriptor_ < 0) FailWrite(errno);
  }

  ~TemporaryFile() {
    if (descriptor_ >= 0) close(descriptor_);
    if (!renamed_) unlink(path_.c_str());
  }

  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void Write(std::span<const std::byte> bytes) {
    constexpr size_t kMostAtOnce = size_t{1} << 30;  // Linux writes no more than 2 GiB in one call
    while (!bytes.empty()) {
      const ssize_t n = write(descriptor_, bytes.data(), std::min(bytes.size(), kMostAtOnce));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) FailWrite(errno);
      bytes = bytes.subspan(static_cast<size_t>(n));
    }
  }

  void SyncAndRename() {
    if (fsync(descriptor_) != 0) FailWrite(errno);
    const int descriptor = descriptor_;
    descriptor_ = -1;
    if (close(descriptor) != 0) FailWrite(errno);
    if (rename(path_.c_str(), target_.c_str()) != 0) FailWrite(errno);
    renamed_ = true;
  }

 private:
  [[noreturn]] void FailWrite(int error) const {
    Fail(ErrorCode::kIo, "{}: cannot be written: {}", target_.string(), Reason(error));
  }

  std::filesystem::path target_;
  std::filesystem::path path_;
  int descriptor_ = -1;
  bool renamed_ = false;
};

// Makes the new name last through a crash. The file is whole either way, and some file systems
// cannot sync a folder, so a failure is not an error.
void SyncFolder(const std::filesystem::path& folder) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  fsync(descriptor);
  close(descriptor);
}

}  // namespace

void WriteFileAtomically(const std::filesystem::path& file, std::span<const std::byte> bytes) {
  if (!file.has_filename()) {
    Fail(ErrorCode::kIo, "\"{}\" cannot be written: it does not end in a file name", file.string());
  }
  // Renaming onto /dev/null would replace the device itself.
  std::error_code ignored;
  const auto type = std::filesystem::status(file, ignored).type();
  if (type != std::filesystem::file_type::not_found && type != std::filesystem::file_type::none &&
      type != std::filesystem::file_type::regular) {
    Fail(ErrorCode::kIo, "{}: cannot be written: it is {}, expected a regular file", file.string(),
         type == std::filesystem::file_type::directory ? "a folder" : "a device or a pipe");
  }
  TemporaryFile temporary(file);
  temporary.Write(bytes);
  temporary.SyncAndRename();
  SyncFolder(file.has_parent_path() ? file.parent_path() : std::filesystem::path("."));
}

}  // namespace pith
