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

constexpr int kNameTries = 100;  // names left by a process that was killed do not block this one

std::string Reason(int error) { return std::generic_category().message(error); }

std::string DescriptorLink(int descriptor) { return fmt::format("/proc/self/fd/{}", descriptor); }

void CheckTarget(const std::filesystem::path& file) {
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
}

// Makes the new name last through a crash. The file is whole either way, and some file systems
// cannot sync a folder, so a failure is not an error.
void SyncFolder(const std::filesystem::path& folder) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  fsync(descriptor);
  close(descriptor);
}

}  // namespace

AtomicFile::AtomicFile(const std::filesystem::path& file)
    : target_(file), folder_(file.has_parent_path() ? file.parent_path() : ".") {
  CheckTarget(file);
  OpenUnnamed();
  if (descriptor_ < 0) OpenNamed();
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) close(descriptor_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

// A file without a name vanishes with the process that writes it, however that ends. Not every file
// system has them, and giving it a name later needs /proc.
void AtomicFile::OpenUnnamed() {
  descriptor_ = open(folder_.c_str(), O_WRONLY | O_TMPFILE | O_CLOEXEC, 0666);
  if (descriptor_ < 0 || access(DescriptorLink(descriptor_).c_str(), F_OK) == 0) return;
  close(descriptor_);
  descriptor_ = -1;
}

void AtomicFile::OpenNamed() {
  for (int i = 0; i < kNameTries && descriptor_ < 0; ++i) {
    NextTemporaryName();
    descriptor_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0 && errno != EEXIST) break;
  }
  if (descriptor_ < 0) {
    const int error = errno;
    temporary_.clear();
    FailWrite(error);
  }
}

void AtomicFile::NextTemporaryName() {
  static std::atomic<unsigned> counter = 0;
  temporary_ = target_;
  temporary_.replace_filename(
      fmt::format(".{}.{}-{}.tmp", target_.filename().string(), getpid(), counter++));
}

void AtomicFile::GiveName() {
  for (int i = 0; i < kNameTries; ++i) {
    NextTemporaryName();
    if (linkat(AT_FDCWD, DescriptorLink(descriptor_).c_str(), AT_FDCWD, temporary_.c_str(),
               AT_SYMLINK_FOLLOW) == 0) {
      return;
    }
    if (errno != EEXIST) break;
  }
  const int error = errno;
  temporary_.clear();
  FailWrite(error);
}

void AtomicFile::Write(std::span<const std::byte> bytes) {
  constexpr size_t kMostAtOnce = size_t{1} << 30;  // Linux writes no more than 2 GiB in one call
  while (!bytes.empty()) {
    const ssize_t n = write(descriptor_, bytes.data(), std::min(bytes.size(), kMostAtOnce));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) FailWrite(errno);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

void AtomicFile::Commit() {
  if (fsync(descriptor_) != 0) FailWrite(errno);
  if (temporary_.empty()) GiveName();
  const int descriptor = descriptor_;
  descriptor_ = -1;
  if (close(descriptor) != 0) FailWrite(errno);
  if (rename(temporary_.c_str(), target_.c_str()) != 0) FailWrite(errno);
  temporary_.clear();
  SyncFolder(folder_);
}

void AtomicFile::FailWrite(int error) const {
  Fail(ErrorCode::kIo, "{}: cannot be written: {}", target_.string(), Reason(error));
}

void WriteFileAtomically(const std::filesystem::path& file, std::span<const std::byte> bytes) {
  AtomicFile atomic(file);
  atomic.Write(bytes);
  atomic.Commit();
}

}  // namespace pith
