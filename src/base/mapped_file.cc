#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "base/fail.h"

namespace pith {
namespace {

std::string Reason(int error) { return std::generic_category().message(error); }

// Closes on every way out of the constructor below.
struct Descriptor {
  int value = -1;
  ~Descriptor() {
    if (value >= 0) close(value);
  }
};

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& file) {
  Descriptor descriptor{open(file.c_str(), O_RDONLY | O_CLOEXEC)};
  if (descriptor.value < 0) {
    const int error = errno;
    const bool missing = error == ENOENT || error == ENOTDIR;
    if (missing) Fail(ErrorCode::kNotFound, "{}: there is no such file", file.string());
    Fail(ErrorCode::kIo, "{}: cannot be opened: {}", file.string(), Reason(error));
  }
  struct stat status;
  if (fstat(descriptor.value, &status) != 0) {
    Fail(ErrorCode::kIo, "{}: cannot be examined: {}", file.string(), Reason(errno));
  }
  if (!S_ISREG(status.st_mode)) {
    Fail(ErrorCode::kIo, "{}: is {}, expected a regular file", file.string(),
         S_ISDIR(status.st_mode) ? "a folder" : "a device or a pipe");
  }
  if (status.st_size == 0) return;
  const auto size = static_cast<size_t>(status.st_size);
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor.value, 0);
  if (data == MAP_FAILED) {
    Fail(ErrorCode::kIo, "{}: cannot be mapped into memory: {}", file.string(), Reason(errno));
  }
  data_ = static_cast<const std::byte*>(data);
  size_ = size;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void MappedFile::Release(std::span<const std::byte> part) const noexcept {
  if (part.empty() || part.data() < data_ || part.data() + part.size() > data_ + size_) return;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t begin = (static_cast<size_t>(part.data() - data_) + page - 1) / page * page;
  const size_t end = static_cast<size_t>(part.data() - data_ + part.size()) / page * page;
  if (begin < end) madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace pith
