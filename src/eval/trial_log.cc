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

void Write(Json& json, const NeedleOutcome& outcome) {
  json["key"] = outcome.key;
  json["value"] = outcome.value;
  json["depth"] = outcome.depth;
  json["correct"] = outcome.correct;
  json["answer"] = outcome.answer;
}

void Read(const Json& json, NeedleOutcome& outcome) {
  json.at("key").get_to(outcome.key);
  json.at("value").get_to(outcome.value);
  json.at("depth").get_to(outcome.depth);
  json.at("correct").get_to(outcome.correct);
  json.at("answer").get_to(outcome.answer);
}

void Write(Json& json, const ScoredOutcome& outcome) {
  json["subtask"] = outcome.subtask;
  json["references"] = outcome.references;
  json["score"] = outcome.score;
  json["answer"] = outcome.answer;
}

void Read(const Json& json, ScoredOutcome& outcome) {
  json.at("subtask").get_to(outcome.subtask);
  json.at("references").get_to(outcome.references);
  json.at("score").get_to(outcome.score);
  json.at("answer").get_to(outcome.answer);
}

void Write(Json& json, const PplOutcome& outcome) {
  json["document"] = outcome.document;
  json["begin"] = outcome.begin;
  json["nll"] = outcome.nll;
  json["by_position"] = outcome.by_position;
}

void Read(const Json& json, PplOutcome& outcome) {
  json.at("document").get_to(outcome.document);
  json.at("begin").get_to(outcome.begin);
  json.at("nll").get_to(outcome.nll);
  json.at("by_position").get_to(outcome.by_position);
}

void Write(Json& json, const SpearmanOutcome& outcome) {
  json["document"] = outcome.document;
  json["begin"] = outcome.begin;
  json["per_head"] = outcome.per_head;
}

void Read(const Json& json, SpearmanOutcome& outcome) {
  json.at("document").get_to(outcome.document);
  json.at("begin").get_to(outcome.begin);
  json.at("per_head").get_to(outcome.per_head);
}

// Every head as [cosine, divergence, spearman, top5].
void Write(Json& json, const CodecOutcome& outcome) {
  json["document"] = outcome.document;
  json["begin"] = outcome.begin;
  json["key_bytes"] = outcome.key_bytes;
  Json& layers = json["per_head"] = Json::array();
  for (const auto& heads : outcome.per_head) {
    Json& layer = layers.emplace_back(Json::array());
    for (const KeyFidelity& head : heads) {
      layer.push_back({head.cosine, head.divergence, head.spearman, head.top5});
    }
  }
}

void Read(const Json& json, CodecOutcome& outcome) {
  json.at("document").get_to(outcome.document);
  json.at("begin").get_to(outcome.begin);
  json.at("key_bytes").get_to(outcome.key_bytes);
  for (const Json& heads : json.at("per_head")) {
    auto& layer = outcome.per_head.emplace_back();
    for (const Json& head : heads) {
      layer.push_back({head.at(0), head.at(1), head.at(2), head.at(3)});
    }
  }
}

void Write(Json& json, const KldOutcome& outcome) {
  json["document"] = outcome.document;
  json["begin"] = outcome.begin;
  json["divergence"] = outcome.divergence;
  json["nll"] = outcome.nll;
  json["same_top"] = outcome.same_top;
}

void Read(const Json& json, KldOutcome& outcome) {
  json.at("document").get_to(outcome.document);
  json.at("begin").get_to(outcome.begin);
  json.at("divergence").get_to(outcome.divergence);
  json.at("nll").get_to(outcome.nll);
  json.at("same_top").get_to(outcome.same_top);
}

[[noreturn]] void FailLine(const std::filesystem::path& file, int line) {
  Fail(ErrorCode::kFormat,
       "line {} of {} is not a finished trial as this version writes it, expected a file made by "
       "--out of the same task",
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

template <typename Outcome>
std::string TrialLine(const TrialRecord<Outcome>& record) {
  const auto or_null = [](const std::string& text) { return text.empty() ? Json() : Json(text); };
  const Outcome& outcome = record.outcome;
  Json json;
  json["settings"] = record.settings;
  json["length"] = record.length;
  json["trial"] = record.trial;
  json["scorer"] = or_null(record.scorer);
  if (!record.calibration.empty()) json["calibration"] = record.calibration;
  json["keep"] = record.keep;
  json["budget"] = or_null(record.budget);
  if (!record.scorer.empty()) json["window"] = record.window;
  if (record.key_codec != "f16") json["key_codec"] = record.key_codec;
  if (record.value_codec != "f16") json["value_codec"] = record.value_codec;
  if (!record.tiers.empty()) json["tier_shares"] = record.tiers;
  Write(json, outcome);
  json["tokens"] = outcome.tokens;
  json["entries"] = outcome.entries;
  json["entries_full"] = outcome.entries_full;
  json["entries_per_head"] = outcome.entries_per_head;
  json["kv_bytes"] = outcome.kv_bytes;
  json["read_s"] = outcome.read_s;
  json["score_s"] = outcome.score_s;
  json["date"] = outcome.date;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

template <typename Outcome>
TrialRecord<Outcome> ParseTrialLine(std::string_view line) try {
  const Json json = Json::parse(line);
  TrialRecord<Outcome> record;
  Outcome& outcome = record.outcome;
  json.at("settings").get_to(record.settings);
  json.at("length").get_to(record.length);
  json.at("trial").get_to(record.trial);
  Read(json, outcome);
  json.at("tokens").get_to(outcome.tokens);
  json.at("entries").get_to(outcome.entries);
  json.at("entries_full").get_to(outcome.entries_full);
  json.at("entries_per_head").get_to(outcome.entries_per_head);
  json.at("kv_bytes").get_to(outcome.kv_bytes);
  json.at("read_s").get_to(outcome.read_s);
  json.at("score_s").get_to(outcome.score_s);
  json.at("date").get_to(outcome.date);
  return record;
} catch (const Json::exception&) {
  Fail(ErrorCode::kFormat, "the line is not a finished trial, expected one of the same task");
}

template <typename Outcome>
TrialLog<Outcome>::TrialLog(std::filesystem::path file) : file_(std::move(file)) {
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
      TrialRecord<Outcome> record = ParseTrialLine<Outcome>(line);
      outcomes_[{record.settings, record.length, record.trial}] = std::move(record.outcome);
    } catch (const Error&) {
      FailLine(file_, number);
    }
    at = end + 1;
  }
}

template <typename Outcome>
const Outcome* TrialLog<Outcome>::Find(const std::string& settings, int64_t length,
                                       int trial) const {
  const auto found = outcomes_.find({settings, length, trial});
  return found == outcomes_.end() ? nullptr : &found->second;
}

template <typename Outcome>
void TrialLog<Outcome>::Add(const TrialRecord<Outcome>& record) {
  if (!file_.empty()) {
    const std::string line = TrialLine(record);
    const int descriptor = OpenToAppend(file_);
    // One write, so that a kill leaves at most the last line torn.
    const ssize_t written = write(descriptor, line.data(), line.size());
    const int error = written < 0 ? errno : ENOSPC;
    close(descriptor);
    if (written != static_cast<ssize_t>(line.size())) FailWriting(file_, error);
  }
  outcomes_[{record.settings, record.length, record.trial}] = record.outcome;
}

template class TrialLog<NeedleOutcome>;
template class TrialLog<KldOutcome>;
template class TrialLog<ScoredOutcome>;
template class TrialLog<PplOutcome>;
template class TrialLog<SpearmanOutcome>;
template class TrialLog<CodecOutcome>;
template std::string TrialLine(const TrialRecord<KldOutcome>&);
template TrialRecord<KldOutcome> ParseTrialLine(std::string_view);

}  // namespace pith
