// Files in and out, and what happens when the system refuses.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "base/printable.h"
#include "memory_probe.h"
#include "tools/expect_error.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::AsBytes;
using testing::ExpectError;
using testing::ReadWhole;
using testing::TempFolder;
using testing::WriteWhole;

int CountFiles(const std::filesystem::path& folder) {
  const std::filesystem::directory_iterator files(folder);
  return static_cast<int>(std::distance(begin(files), end(files)));
}

TEST(MappedFile, GivesTheBytes) {
  const TempFolder folder;
  WriteWhole(folder / "a", "some bytes");
  MappedFile first(folder / "a");
  MappedFile second = std::move(first);
  EXPECT_TRUE(first.bytes().empty());
  ASSERT_EQ(second.bytes().size(), 10u);
  EXPECT_EQ(std::memcmp(second.bytes().data(), "some bytes", 10), 0);
  second = MappedFile();
  EXPECT_TRUE(second.bytes().empty());
  WriteWhole(folder / "empty", "");
  EXPECT_TRUE(MappedFile(folder / "empty").bytes().empty());
}

TEST(MappedFile, ReleasedBytesLeaveMemoryAndReadAgain) {
  const TempFolder folder;
  const std::string content(32 << 20, 'q');
  WriteWhole(folder / "a", content);
  const MappedFile file(folder / "a");
  ASSERT_EQ(std::memcmp(file.bytes().data(), content.data(), content.size()), 0);
  const uint64_t touched = SystemMemory("VmRSS");
  file.Release(file.bytes().subspan(100, (30 << 20)));
  EXPECT_LE(SystemMemory("VmRSS") + (28 << 20), touched);
  EXPECT_EQ(std::memcmp(file.bytes().data(), content.data(), content.size()), 0);
  file.Release({});
  file.Release(std::as_bytes(std::span(content)));  // not of this file: nothing happens
  EXPECT_EQ(content.back(), 'q');
}

TEST(MappedFile, SaysWhyNot) {
  const TempFolder folder;
  ExpectError(ErrorCode::kNotFound, "there is no such file", [&] { MappedFile(folder / "none"); });
  WriteWhole(folder / "a", "x");
  ExpectError(ErrorCode::kNotFound, "there is no such file", [&] { MappedFile(folder / "a/b"); });
  ExpectError(ErrorCode::kIo, "is a folder", [&] { MappedFile(folder.path()); });
  ExpectError(ErrorCode::kIo, "is a device", [&] { MappedFile("/dev/null"); });
  ExpectError(ErrorCode::kIo, "name too long", [&] { MappedFile(folder / std::string(300, 'x')); });
}

TEST(AtomicFile, WritesAndReplaces) {
  const TempFolder folder;
  for (const std::string& content :
       {std::string("first"), std::string(), std::string(3000000, 'z')}) {
    WriteFileAtomically(folder / "a", AsBytes(content));
    EXPECT_EQ(ReadWhole(folder / "a"), content);
    EXPECT_EQ(CountFiles(folder.path()), 1);
  }
}

TEST(AtomicFile, WritesIntoTheCurrentFolder) {
  const TempFolder folder;
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  WriteFileAtomically("bare", AsBytes("x"));
  std::filesystem::current_path(before);
  EXPECT_EQ(ReadWhole(folder / "bare"), "x");
}

TEST(AtomicFile, RefusesWhatIsNoFile) {
  const TempFolder folder;
  const auto write = [](const std::filesystem::path& file) {
    WriteFileAtomically(file, AsBytes("x"));
  };
  ExpectError(ErrorCode::kIo, "No such file or directory", [&] { write(folder / "none/a"); });
  ExpectError(ErrorCode::kIo, "is a folder", [&] { write(folder.path()); });
  ExpectError(ErrorCode::kIo, "does not end in a file name", [&] { write(folder / ""); });
  ExpectError(ErrorCode::kIo, "does not end in a file name", [&] { write(""); });
  ExpectError(ErrorCode::kIo, "is a device", [&] { write("/dev/full"); });
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/full"));
  ExpectError(ErrorCode::kIo, "cannot be written", [&] { write(folder / std::string(300, 'x')); });
  EXPECT_EQ(CountFiles(folder.path()), 0);
}

// A limit on the size of files makes write() fail in the middle, as a full disk does. In a process
// of its own, since the limit holds for all of it.
TEST(AtomicFile, AFullDiskLeavesTheOldFile) {
  const TempFolder folder;
  WriteWhole(folder / "a", "old");
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100000, 100000};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(2);
    try {
      WriteFileAtomically(folder / "a", AsBytes(std::string(300000, 'n')));
    } catch (const Error& error) {
      const std::string message = error.what();
      const bool right = error.code() == ErrorCode::kIo &&
                         message.find((folder / "a").string()) != std::string::npos &&
                         message.find(std::strerror(EFBIG)) != std::string::npos;
      _exit(right ? 0 : 3);
    }
    _exit(1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(ReadWhole(folder / "a"), "old");
  EXPECT_EQ(CountFiles(folder.path()), 1);
}

TEST(AtomicFile, AFolderWithoutPermissionIsAnError) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "closed");
  std::filesystem::permissions(
      folder / "closed", std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // Root may write anywhere.
    if (getuid() == 0 && (chown((folder / "closed").c_str(), 65534, 65534) != 0 ||
                          chmod(folder.path().c_str(), 0755) != 0 || setuid(65534) != 0)) {
      _exit(2);
    }
    try {
      WriteFileAtomically(folder / "closed" / "a", AsBytes("x"));
    } catch (const Error& error) {
      _exit(std::string(error.what()).find(std::strerror(EACCES)) != std::string::npos ? 0 : 3);
    }
    _exit(1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Printable, LeavesNothingATerminalObeys) {
  EXPECT_EQ(Printable("plain text"), "plain text");
  EXPECT_EQ(Printable("a\nb\x1b[31m\xc3\xa4"), "a?b?[31m??");
  EXPECT_EQ(Printable(std::string(100, 'x')), std::string(64, 'x') + "...");
  EXPECT_EQ(Printable(""), "");
}

}  // namespace
}  // namespace pith
