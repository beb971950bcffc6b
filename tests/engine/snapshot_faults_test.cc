// Saving that is killed, that runs out of space, and that others do at the same time.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/atomic_file.h"
#include "pith/error.h"
#include "pith/session.h"
#include "pith/snapshot.h"
#include "tools/random_gguf.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::AsBytes;
using testing::ReadWhole;
using testing::TempFolder;
using testing::WriteWhole;

constexpr const char* kSaveForever = "--save-forever";

Plan SmallPlan() {
  Plan plan;
  plan.keep = Keep::Parse("50%");
  plan.scorer = "knorm";
  plan.window = 16;
  return plan;
}

Session MakeSession(const Model& model) {
  Session session(model, SmallPlan(), {.n_batch = 128, .n_threads = 1});
  std::vector<Token> tokens;
  for (int i = 0; i < 600; ++i) tokens.push_back(i * 79 % 250);
  session.Read(tokens);
  return session;
}

std::filesystem::path WriteModel(const TempFolder& folder) {
  testing::RandomGguf options;
  options.n_embd = 128;
  options.head_dim = 32;
  options.n_ctx = 1024;
  WriteRandomGguf(options, folder / "model.gguf");
  return folder / "model.gguf";
}

// This program again, saving a session under one name until it is killed.
class Saver {
 public:
  Saver(const std::filesystem::path& model, const std::filesystem::path& file,
        const std::string& who) {
    int ready[2];
    if (pipe(ready) != 0) throw std::runtime_error("no pipe");
    const std::string out = std::to_string(ready[1]);
    process_ = fork();
    if (process_ == 0) {
      close(ready[0]);
      execl("/proc/self/exe", "saver", kSaveForever, model.c_str(), file.c_str(), who.c_str(),
            out.c_str(), nullptr);
      _exit(127);
    }
    close(ready[1]);
    char byte;
    started_ = read(ready[0], &byte, 1) == 1;
    close(ready[0]);
  }
  ~Saver() { Kill(); }
  Saver(const Saver&) = delete;
  Saver& operator=(const Saver&) = delete;

  bool started() const { return started_; }  // its session is ready, and saving begins
  void Kill() {
    if (process_ <= 0) return;
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
    process_ = 0;
  }

 private:
  pid_t process_ = 0;
  bool started_ = false;
};

int SaveForever(char** argv) {
  const Model model = Model::Load(argv[2]);
  const Session session = MakeSession(model);
  if (write(std::stoi(argv[5]), "r", 1) != 1) return 1;
  for (int i = 0;; ++i) session.Save(argv[3], {{"who", argv[4]}, {"save", std::to_string(i)}});
}

std::vector<std::string> FilesBeside(const std::filesystem::path& file) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(file.parent_path())) {
    if (entry.path() != file) names.push_back(entry.path().filename());
  }
  return names;
}

TEST(SnapshotFaults, KilledAtAnyMomentItLeavesTheOldFileOrTheNewOne) {
  const TempFolder folder, target;
  const auto model_file = WriteModel(folder);
  const Model model = Model::Load(model_file);
  const auto file = target / "x.pith";
  std::mt19937 random(3);
  std::map<std::string, int> last_saves;
  int n_without_file = 0;
  for (int i = 0; i < 120; ++i) {
    // Every third time there is no old file, and the first save is caught.
    if (i % 3 == 0) std::filesystem::remove(file);
    const bool had_old = std::filesystem::exists(file);
    Saver saver(model_file, file, std::to_string(i));
    ASSERT_TRUE(saver.started());
    const unsigned longest_us = i % 6 == 0 ? 1 : i % 3 == 0 ? 3000 : 20000;
    std::this_thread::sleep_for(std::chrono::microseconds(random() % longest_us));
    saver.Kill();
    if (!std::filesystem::exists(file)) {
      EXPECT_FALSE(had_old);
      ++n_without_file;
      continue;
    }
    const SnapshotInfo info = InspectSnapshot(file);
    ASSERT_TRUE(info.intact) << i;
    ++last_saves[info.notes.at("save")];
    if (i % 10 == 0) {
      EXPECT_EQ(Session::Load(model, file, {.n_threads = 1}).n_read(), 600);
    }
  }
  EXPECT_GT(last_saves.size(), 1u);  // it was not always killed at the same moment
  EXPECT_GT(n_without_file, 0);      // nor only after the first save
  // Whatever the killed ones left does not block anybody.
  MakeSession(model).Save(file, {{"who", "last"}});
  EXPECT_EQ(InspectSnapshot(file).notes.at("who"), "last");
}

TEST(SnapshotFaults, TemporaryNamesThatWereLeftDoNotBlock) {
  const TempFolder folder;
  const auto file = folder / "x.pith";
  // A process that had this one's id before it.
  for (int i = 0; i < 40; ++i) {
    WriteWhole(folder / (".x.pith." + std::to_string(getpid()) + "-" + std::to_string(i) + ".tmp"),
               "half");
  }
  for (int i = 0; i < 3; ++i) WriteFileAtomically(file, AsBytes("whole"));
  EXPECT_EQ(ReadWhole(file), "whole");
  EXPECT_EQ(FilesBeside(file).size(), 40u);
}

TEST(SnapshotFaults, AFullDiskLeavesNothingBehind) {
  const TempFolder folder, target;
  const Model model = Model::Load(WriteModel(folder));
  const Session session = MakeSession(model);
  const auto file = target / "x.pith";
  session.Save(file);
  const std::string before = ReadWhole(file);
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit unlimited = limit;
  for (const size_t most :
       {size_t{0}, size_t{1}, size_t{4096}, size_t{5000}, before.size() / 2, before.size() - 1}) {
    for (const bool has_old : {true, false}) {
      if (!has_old) std::filesystem::remove(file);
      limit.rlim_cur = most;
      ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
      ErrorCode code = ErrorCode::kFormat;
      std::string message;
      try {
        session.Save(file, {{"new", "yes"}});
      } catch (const Error& e) {
        code = e.code();
        message = e.what();
      }
      setrlimit(RLIMIT_FSIZE, &unlimited);
      EXPECT_EQ(code, ErrorCode::kIo) << most;
      EXPECT_NE(message.find(file.string()), std::string::npos) << message;
      EXPECT_TRUE(FilesBeside(file).empty());
      EXPECT_EQ(std::filesystem::exists(file), has_old);
      if (has_old) {
        EXPECT_EQ(ReadWhole(file), before);
      }
      session.Save(file);
      EXPECT_EQ(ReadWhole(file), before);
    }
  }
  std::signal(SIGXFSZ, SIG_DFL);
  for (const std::string place : {"/dev/full", "/nowhere/x.pith"}) {
    try {
      session.Save(place);
      ADD_FAILURE() << place;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kIo) << e.what();
    }
  }
}

TEST(SnapshotFaults, TwoProcessesSavingTheSameNameDoNotHarmEachOther) {
  const TempFolder folder, target;
  const auto model_file = WriteModel(folder);
  const Model model = Model::Load(model_file);
  const auto file = target / "x.pith";
  MakeSession(model).Save(file, {{"who", "first"}, {"save", "0"}});
  Saver a(model_file, file, "a"), b(model_file, file, "b");
  ASSERT_TRUE(a.started() && b.started());
  std::map<std::string, int> seen;
  // Until both were seen, and a while longer; never seeing one would end at the test's time limit.
  for (int i = 0; i < 200 || seen["a"] == 0 || seen["b"] == 0; ++i) {
    const SnapshotInfo info = InspectSnapshot(file);
    ASSERT_TRUE(info.intact);
    ++seen[info.notes.at("who")];
    if (i % 20 == 0) {
      ASSERT_EQ(Session::Load(model, file, {.n_threads = 1}).n_read(), 600);
    }
  }
  a.Kill();
  b.Kill();
  EXPECT_TRUE(InspectSnapshot(file).intact);
}

}  // namespace
}  // namespace pith

int main(int argc, char** argv) {
  if (argc == 6 && std::string(argv[1]) == pith::kSaveForever) return pith::SaveForever(argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
