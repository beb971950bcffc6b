#include "eval/trial_log.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "base/fail.h"
#include "base/mapped_file.h"

namespace pith {
namespace {

using Json = nlohmann::ordered_json;

// Every line begins so, by which the rest of a line can be told from a file of another kind.
constexpr std::string_view kLineStart = R"({"settings":")";

std::string ToLine(const TrialRecord& record) {
  const NeedleOutcome& outcome = record.outcome;
  Json json;
  json["settings"] = record.settings;
  json["length"] = record.length;
  json["trial"] = record.trial;
  json["scorer"] = nullptr;
  if (!record.scorer.empty()) json["scorer"] = record.scorer;
  json["keep"] = record.keep;
  json["budget"] = nullptr;
  if (!record.budget.empty()) json["budget"] = record.budget;
  json["key"] = record.key;
  json["value"] = record.value;
  json["depth"] = record.depth;
  json["correct"] = outcome.correct;
  json["answer"] = outcome.answer;
  json["tokens"] = outcome.tokens;
  json["entries"] = outcome.entries;
  json["entries_full"] = outcome.entries_full;
  json["kv_bytes"] = outcome.kv_bytes;
  json["read_s"] = outcome.read_s;
  json["score_s"] = outcome.score_s;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

TrialRecord FromLine(std::string_view line) {
  const Json json = Json::parse(line);
  TrialRecord record;
  NeedleOutcome& outcome = record.outcome;
  json.at("settings").get_to(record.settings);
  json.at("length").get_to(record.length);
  json.at("trial").get_to(record.trial);
  json.at("correct").get_to(outcome.correct);
  json.at("answer").get_to(outcome.answer);
  json.at("tokens").get_to(outcome.tokens);
  json.at("entries").get_to(outcome.entries);
  json.at("entries_full").get_to(outcome.entries_full);
  json.at("kv_bytes").get_to(outcome.kv_bytes);
  json.at("read_s").get_to(outcome.read_s);
  json.at("score_s").get_to(outcome.score_s);
  return record;
}

[[noreturn]] void FailLine(const std::filesystem::path& file, int line) {
  Fail(ErrorCode::kFormat, "line {} of {} is not a finished trial, expected a file made by --out",
       line, file.string());
}

[[noreturn]] void FailWriting(const std::filesystem::path& file, int error) {
  Fail(ErrorCode::kIo, "cannot write {}: {}", file.string(), std::strerror(error));
}

int OpenToAppend(const std::filesystem::path& file) {
  const int descriptor = open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor < 0) FailWriting(file, errno);
  return descriptor;
}

}  // namespace

TrialLog::TrialLog(std::filesystem::path file) : file_(std::move(file)) {
  if (file_.empty()) return;
  close(OpenToAppend(file_));
  std::string text;
  {
    const MappedFile mapped(file_);
    text.assign(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size());
  }
  size_t at = 0;
  for (int number = 1; at < text.size(); ++number) {
    const size_t end = text.find('\n', at);
    const std::string_view line = std::string_view(text).substr(at, end - at);
    if (end == std::string::npos) {
      const size_t known = std::min(line.size(), kLineStart.size());
      if (line.substr(0, known) != kLineStart.substr(0, known)) FailLine(file_, number);
      if (truncate(file_.c_str(), static_cast<off_t>(at)) != 0) FailWriting(file_, errno);
      return;
    }
    try {
      TrialRecord record = FromLine(line);
      outcomes_[{record.settings, record.length, record.trial}] = std::move(record.outcome);
    } catch (const Json::exception&) {
      FailLine(file_, number);
    }
    at = end + 1;
  }
}

const NeedleOutcome* TrialLog::Find(const std::string& settings, int64_t length, int trial) const {
  const auto found = outcomes_.find({settings, length, trial});
  return found == outcomes_.end() ? nullptr : &found->second;
}

void TrialLog::Add(const TrialRecord& record) {
  if (!file_.empty()) {
    const std::string line = ToLine(record);
    const int descriptor = OpenToAppend(file_);
    // One write, so that a kill leaves at most the last line torn.
    const ssize_t written = write(descriptor, line.data(), line.size());
    const int error = written < 0 ? errno : ENOSPC;
    close(descriptor);
    if (written != static_cast<ssize_t>(line.size())) FailWriting(file_, error);
  }
  outcomes_[{record.settings, record.length, record.trial}] = record.outcome;
}

}  // namespace pith
