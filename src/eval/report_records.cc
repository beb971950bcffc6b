#include "eval/report_records.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/fail.h"
#include "base/printable.h"

namespace pith {
namespace {

using Json = nlohmann::json;

constexpr const char* kTasks[] = {"kld",           "ppl",    "ppl_streaming",
                                  "niah_single_2", "ruler",  "longbench",
                                  "spearman",      "needle", "codec"};
// Of the plan, besides scorer, keep and budget.
constexpr const char* kPlanSettings[] = {
    "calibration", "window",        "sinks",     "skip_layers", "head_floor",
    "chunkwise",   "while_reading", "key_codec", "value_codec", "tier_shares"};
constexpr const char* kTaskSettings[] = {"values", "chat",     "aware",  "next",
                                         "from",   "distance", "queries"};
constexpr const char* kOrigin[] = {"version", "fingerprint", "cpu", "threads", "seed", "date"};

// One record and where it stands.
class Reader {
 public:
  Reader(const Json& json, const std::string& file, int64_t number)
      : json_(json), place_(fmt::format("record {} of {}", number, file)) {}

  EvalRecord Read() {
    if (!json_.is_object())
      Fail(ErrorCode::kFormat, "{} is {}, expected an object", place_, Kind(json_));
    EvalRecord record;
    ReadTask(record);
    record.subtask = Text("subtask");
    record.model = Text("model");
    record.scorer = Text("scorer");
    if (record.scorer == "full") record.scorer.clear();
    const bool of_codec = record.task == "codec";
    if (of_codec) record.scorer = Text("key_codec");
    if (of_codec && record.scorer.empty()) {
      Fail(ErrorCode::kFormat, "{} names no \"key_codec\", expected the codec it is about", place_);
    }
    record.keep = Scalar("keep");
    record.budget = Text("budget");
    record.length = Length();
    for (const char* name : kTaskSettings) Put(record.task_settings, name);
    for (const char* name : kOrigin) Put(record.origin, name);
    const auto coded = [&](const char* name) { return !Text(name).empty() && Text(name) != "f16"; };
    if (record.full() && (coded("key_codec") || coded("value_codec"))) {
      record.scorer = "all entries";
    }
    if (!record.full()) {
      for (const char* name : kPlanSettings) Put(record.plan_settings, name);
      if (of_codec) record.plan_settings.erase("key_codec");
    }
    for (const auto& [name, value] : json_.items()) {
      if (value.is_number()) record.numbers[name] = value.get<double>();
      if (name == "interval" || name.ends_with("_interval")) AddInterval(record, name, value);
    }
    for (const char* name : {"accuracy", "same_top", "kept_fraction", "top5"}) {
      CheckRange(record, name, 0, 1);
    }
    CheckRange(record, "score", 0, 100);
    for (const char* name : {"spearman", "cosine"}) CheckRange(record, name, -1, 1);
    for (const char* name : {"divergence", "perplexity", "kv_bytes", "key_bytes", "trials"}) {
      CheckRange(record, name, 0, HUGE_VAL);
    }
    ReadDepths(record);
    record.kept_per_head = Heads("kept_per_head", 0, 1);
    record.per_head = Heads("per_head", -1, 1);
    return record;
  }

 private:
  // The field, or null if there is none.
  const Json& At(const char* name) const {
    static const Json kNone;
    const auto found = json_.find(name);
    return found == json_.end() ? kNone : *found;
  }

  static std::string Kind(const Json& value) {
    if (value.is_string()) return fmt::format("'{}'", Printable(value.get<std::string>()));
    if (value.is_primitive()) return value.dump();
    return value.is_array() ? "a list" : "an object";
  }

  [[noreturn]] void Refuse(const std::string& name, const Json& value, std::string_view expected) {
    Fail(ErrorCode::kFormat, "{}: \"{}\" is {}, expected {}", place_, Printable(name), Kind(value),
         expected);
  }

  void ReadTask(EvalRecord& record) {
    record.task = Text("task");
    if (record.task.empty()) {
      Fail(ErrorCode::kFormat, "{} names no task, expected what pith eval TASK --json prints{}",
           place_, json_.contains("trial") ? " (these are trials, as --out keeps them)" : "");
    }
    if (std::find(std::begin(kTasks), std::end(kTasks), record.task) == std::end(kTasks)) {
      Refuse("task", json_["task"], fmt::format("{}", fmt::join(kTasks, ", ")));
    }
  }

  std::string Text(const char* name) {
    const Json& value = At(name);
    if (value.is_null()) return {};
    if (!value.is_string()) Refuse(name, value, "a text");
    return value.get<std::string>();
  }

  // A text, number, or yes or no, as text.
  std::string Scalar(const char* name) {
    const Json& value = At(name);
    if (value.is_null()) return {};
    if (value.is_string()) return value.get<std::string>();
    if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
    if (!value.is_number()) Refuse(name, value, "a text or a number");
    return value.dump();
  }

  void Put(std::map<std::string, std::string>& to, const char* name) {
    std::string text = Scalar(name);
    if (!text.empty()) to[name] = std::move(text);
  }

  std::optional<int64_t> Length() {
    const Json& value = At("length");
    if (value.is_null()) return std::nullopt;
    if (!value.is_number_unsigned() || value.get<uint64_t>() > (uint64_t{1} << 40)) {
      Refuse("length", value, "a number of tokens");
    }
    return value.get<int64_t>();
  }

  void AddInterval(EvalRecord& record, const std::string& name, const Json& value) {
    if (value.is_null()) return;
    if (!value.is_array() || value.size() != 2) Refuse(name, value, "[low, high]");
    if (value[0].is_null() && value[1].is_null()) return;
    if (!value[0].is_number() || !value[1].is_number()) Refuse(name, value, "[low, high]");
    const Interval interval = {value[0].get<double>(), value[1].get<double>()};
    if (!(interval.low <= interval.high)) {
      Fail(ErrorCode::kFormat, "{}: \"{}\" goes from {} to {}, expected the lower end first",
           place_, Printable(name), interval.low, interval.high);
    }
    record.intervals[name] = interval;
  }

  void CheckRange(const EvalRecord& record, const char* name, double low, double high) {
    const Json& value = At(name);
    if (value.is_null()) return;
    if (!value.is_number()) Refuse(name, value, "a number");
    const double number = record.numbers.at(name);
    if (number >= low && number <= high) return;
    Refuse(name, value,
           high == HUGE_VAL ? fmt::format("{} or more", low)
                            : fmt::format("from {} to {}", low, high));
  }

  void ReadDepths(EvalRecord& record) {
    const Json& list = At("by_depth");
    if (list.is_null()) return;
    constexpr char kExpected[] = "a list of {\"depth\", \"correct\", \"trials\"}";
    if (!list.is_array()) Refuse("by_depth", list, kExpected);
    for (const Json& value : list) {
      const auto number = [&](const char* name) {
        if (!value.is_object() || !value.contains(name) || !value[name].is_number()) {
          Refuse("by_depth", list, kExpected);
        }
        return value[name].get<double>();
      };
      const double depth = number("depth");
      const double correct = number("correct");
      const double trials = number("trials");
      if (!(depth >= 0 && depth <= 1 && correct >= 0 && correct <= trials && trials <= 1e9)) {
        Fail(
            ErrorCode::kFormat,
            "{}: at depth {} there are {} of {} needles found, expected a depth from 0 to 1 and no "
            "more found than hidden",
            place_, depth, correct, trials);
      }
      record.by_depth.push_back(
          {depth, static_cast<int64_t>(correct), static_cast<int64_t>(trials)});
    }
  }

  std::vector<std::vector<double>> Heads(const char* name, double low, double high) {
    const Json& layers = At(name);
    std::vector<std::vector<double>> heads;
    if (layers.is_null()) return heads;
    const std::string expected =
        fmt::format("a list of numbers from {} to {} for every layer", low, high);
    if (!layers.is_array()) Refuse(name, layers, expected);
    for (const Json& layer : layers) {
      if (!layer.is_array()) Refuse(name, layers, expected);
      auto& row = heads.emplace_back();
      for (const Json& value : layer) {
        // Spearman's rho of ranks that are all the same is no number.
        const double number = value.is_number() ? value.get<double>() : std::nan("");
        const bool inside = number >= low && number <= high;
        if (!inside && !value.is_null()) Refuse(name, layers, expected);
        row.push_back(number);
      }
    }
    return heads;
  }

  const Json& json_;
  std::string place_;
};

}  // namespace

std::string EvalRecord::Identity() const {
  const auto settings = [](const std::map<std::string, std::string>& map) {
    Json json = Json::object();
    for (const auto& [name, text] : map) json[name] = text;
    return json;
  };
  const auto print = origin.find("fingerprint");
  return Json({task, subtask, model, print == origin.end() ? "" : print->second,
               length.value_or(-1), scorer, full() ? "" : keep, full() ? "" : budget,
               settings(plan_settings), settings(task_settings)})
      .dump(-1, ' ', true, Json::error_handler_t::replace);
}

void ReadRecords(std::istream& stream, const std::string& name, std::vector<EvalRecord>& records) {
  int64_t number = 0;
  while ((stream >> std::ws).good() && stream.peek() != std::istream::traits_type::eof()) {
    Json json;
    try {
      stream >> json;
    } catch (const Json::exception&) {
      if (number == 0) Fail(ErrorCode::kFormat, "{} is no JSON, or is cut short", name);
      Fail(ErrorCode::kFormat, "what follows record {} of {} is no JSON, or is cut short", number,
           name);
    }
    if (!json.is_array()) json = Json::array({std::move(json)});
    for (const Json& value : json) records.push_back(Reader(value, name, ++number).Read());
  }
  if (number == 0) Fail(ErrorCode::kFormat, "{} holds no record", name);
}

std::vector<EvalRecord> ReadRecords(const std::vector<std::filesystem::path>& files) {
  std::vector<EvalRecord> records;
  for (const auto& file : files) {
    std::error_code ignored;
    if (!std::filesystem::exists(file, ignored)) {
      Fail(ErrorCode::kNotFound, "there is no file {}", file.string());
    }
    std::ifstream stream(file, std::ios::binary);
    if (!stream || std::filesystem::is_directory(file, ignored)) {
      Fail(ErrorCode::kIo, "cannot read {}", file.string());
    }
    ReadRecords(stream, file.string(), records);
  }
  return records;
}

int64_t KeepLast(std::vector<EvalRecord>& records) {
  std::vector<EvalRecord> kept;
  std::unordered_map<std::string, size_t> places;
  for (EvalRecord& record : records) {
    const auto [place, is_new] = places.try_emplace(record.Identity(), kept.size());
    if (is_new) {
      kept.push_back(std::move(record));
    } else {
      kept[place->second] = std::move(record);
    }
  }
  const auto replaced = static_cast<int64_t>(records.size() - kept.size());
  records = std::move(kept);
  return replaced;
}

}  // namespace pith
