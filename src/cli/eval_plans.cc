#include "cli/eval_plans.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <xxhash.h>

#include <charconv>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/fail.h"
#include "cache/pq_codebook.h"
#include "cli/report.h"
#include "engine/plan_calibration.h"
#include "eval/key_coding.h"
#include "scorers/scorer.h"

namespace pith::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

int64_t ParseCount(const std::string& flag, const std::string& text, int64_t low,
                   const std::string& what) {
  int64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc() || end != text.data() + text.size() || count < low ||
      count > (int64_t{1} << 30)) {
    throw UsageError(fmt::format("{} '{}' is not {}", flag, text, what));
  }
  return count;
}

int ParseWindow(const std::string& text) {
  return static_cast<int>(ParseCount("--window", text, 1, "a number of entries, 1 or more"));
}

// NAME or NAME@FILE.
std::pair<std::string, std::string> ParseNamed(const char* flag, const std::string& text) {
  const size_t at = text.find('@');
  if (at == std::string::npos) return {text, ""};
  if (at + 1 == text.size()) {
    throw UsageError(fmt::format("{} '{}' names no calibration after the @", flag, text));
  }
  return {text.substr(0, at), text.substr(at + 1)};
}

}  // namespace

void EvalFlags::AddTo(CommandLine& line, const std::string& trials) {
  line.List("-l,--length", lengths_, "N,...", "tokens that are read");
  line.Option("--trials", trials_, "N", trials);
  line.Option("--first-trial", first_trial_, "N",
              "number of the first one, so that several processes may share the work");
  line.Option("-s,--seed", seed_, "N", "seed of the trials, the same ones for every plan");
  if (tries_ == Tries::kPlans) {
    line.Flag("--while-reading", while_reading_,
              "every plan reads anew and evicts on the way (scorers that repeat the text: "
              "chunkwise), where otherwise one reading with the full cache serves all plans");
  }
  line.Option("--out", out_, "FILE",
              "append every finished trial as a JSON line; trials that are there are not repeated");
  line.Flag("--json", json_, "print a list of records, or one record if one plan is tried");
  model_.AddTo(line);
  if (tries_ == Tries::kScorers) {
    plan_.AddScorersTo(line, lists_.scorers);
  } else if (tries_ == Tries::kKeyCodecs) {
    plan_.AddKeyCodecsTo(line, lists_.key_codecs);
  } else {
    plan_.AddTo(line, lists_);
  }
  plan_.SetReading(Reading::kDocument);
}

void EvalFlags::Check() const {
  if (trials_ < 1 || trials_ > 100000) {
    throw UsageError(fmt::format("--trials is {}, expected 1 to 100,000", trials_));
  }
  if (first_trial_ < 0 || first_trial_ > 1000000) {
    throw UsageError(fmt::format("--first-trial is {}, expected 0 to 1,000,000", first_trial_));
  }
  Lengths();
  const std::vector<std::string> budgets = BudgetNames();
  for (const std::string& budget : lists_.budgets) {
    if (std::find(budgets.begin(), budgets.end(), budget) == budgets.end()) {
      throw UsageError(
          fmt::format("there is no budget '{}', only {}", budget, fmt::join(budgets, ", ")));
    }
  }
  for (const std::string& window : lists_.windows) {
    for (const std::string& scorer : lists_.scorers) {
      for (const Storage& storage : Storages()) {
        plan_.With(ParseNamed("--scorer", scorer).first, ParseWindow(window), "", storage).Check();
      }
    }
  }
}

std::vector<int64_t> EvalFlags::Lengths() const {
  std::vector<int64_t> lengths;
  for (const std::string& text : lengths_) {
    const int64_t length = ParseCount("--length", text, 1, "a number of tokens");
    if (std::find(lengths.begin(), lengths.end(), length) == lengths.end()) {
      lengths.push_back(length);
    }
  }
  return lengths;
}

void EvalFlags::CheckLengths(int64_t low, int64_t high, const std::string& why) const {
  for (int64_t length : Lengths()) {
    if (length >= low && length <= high) continue;
    throw UsageError(
        fmt::format("--length is {}, expected from {} to {}, {}", length, low, high, why));
  }
}

std::vector<TriedPlan> EvalFlags::Plans(const Model& model, const SessionOptions& options) const {
  if (tries_ == Tries::kKeyCodecs) return KeyCodecs(model);
  std::vector<TriedPlan> plans;
  const std::vector<Storage> storages = Storages();
  if (tries_ != Tries::kScorers) plans.push_back({Plan(), ""});
  for (const std::string& text : lists_.scorers) {
    const auto [scorer, calibration] = ParseNamed("--scorer", text);
    std::shared_ptr<const Calibration> shared;
    for (const std::string& window : lists_.windows) {
      for (const Storage& storage : storages) {
        TriedPlan tried;
        tried.calibration = calibration;
        tried.plan = plan_.With(scorer, ParseWindow(window), calibration, storage)
                         .ForModel(model, model_.File());
        // One for all of a scorer's plans where it can be, which is how it is known that one
        // judgement serves them.
        if (shared && HoldsFor(*shared, tried.plan)) tried.plan.calibration = shared;
        shared = tried.plan.calibration;
        for (const std::string& budget : lists_.budgets) {
          tried.plan.budget = budget;
          if (tries_ == Tries::kScorers) {
            tried.plan.keep.kind = Keep::Kind::kFraction;
            tried.plan.keep.fraction = 1;
            tried.plan.budget = "uniform";
          }
          if (while_reading_ && tried.evicts()) {
            const bool repeats = MakeScorer(tried.plan, model.info())->needs().repeat_pass;
            tried.plan.chunkwise = tried.plan.chunkwise || repeats;
          }
          MakeSession(model, tried.plan, options);  // refuses before the first minute
          plans.push_back(tried);
        }
      }
    }
  }
  return plans;
}

std::vector<Storage> EvalFlags::Storages() const {
  std::vector<Storage> storages;
  for (const std::string& tiers : lists_.tiers) {
    storages.emplace_back().tiers = tiers;
  }
  if (!storages.empty()) return storages;
  for (const std::string& keep : lists_.keeps) {
    for (const std::string& key_codec : lists_.key_codecs) {
      for (const std::string& value_codec : lists_.value_codecs) {
        storages.push_back({keep, key_codec, value_codec, ""});
      }
    }
  }
  return storages;
}

std::vector<TriedPlan> EvalFlags::KeyCodecs(const Model& model) const {
  std::map<std::string, std::shared_ptr<const Calibration>> loaded;  // by file
  const auto calibration_for = [&](const Plan& plan, const std::string& named) {
    const std::string& file = named.empty() ? plan_.calibration_file() : named;
    if (file.empty()) return plan_.CalibrationFor(plan, model, model_.File());
    std::shared_ptr<const Calibration>& calibration = loaded[file];
    if (!calibration) {
      calibration = plan_.With(plan.scorer, plan.window, file, Storage())
                        .CalibrationFor(plan, model, model_.File());
    }
    return calibration;
  };
  std::vector<std::string> names = lists_.key_codecs;
  if (names.empty()) names = KeyCodingNames(calibration_for(Plan(), "").get());
  std::vector<TriedPlan> plans;
  for (const std::string& text : names) {
    const auto [codec, file] = ParseNamed("--key-codec", text);
    TriedPlan& tried = plans.emplace_back();
    tried.plan.key_codec = codec;
    if (!PartsOfCodecs(tried.plan).empty()) {
      tried.plan.calibration = calibration_for(tried.plan, file);
      tried.calibration = file;
    }
    AsUsage([&] { return MakeKeyCoding(tried.plan, model.info()); });
  }
  return plans;
}

Compression EvalFlags::compression(std::span<const TriedPlan> plans) const {
  const bool on_the_way =
      while_reading_ || std::any_of(plans.begin(), plans.end(), [](const TriedPlan& tried) {
        return tried.plan.chunkwise || tried.plan.kv_limit > 0;
      });
  return on_the_way ? Compression::kWhileReading : Compression::kAfterReading;
}

std::string EvalFlags::Settings(const Json& task, const TriedPlan& tried) const {
  Json json = task;
  const Plan& plan = tried.plan;
  if (!tried.full()) {
    AddPlan(json.emplace_back(Json::object()), plan);
    json.push_back({plan.budget, plan.head_floor, plan.seed, plan.chunkwise, plan.kv_limit});
    if (plan.calibration) {
      json.push_back(CalibrationDigest(CalibrationParts(plan), *plan.calibration));
    }
    if (while_reading_) json.push_back("while reading");
  }
  const std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  return fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
}

Json Pair(const Interval& interval) { return {interval.low, interval.high}; }

int64_t ContextOf(const Model& model, const SessionOptions& options) {
  return options.n_ctx > 0 ? options.n_ctx : model.info().n_ctx_train;
}

ReadingMeans MeansOfReadings(std::span<const ReadingStats> readings) {
  const auto share = [](int64_t part, int64_t whole) {
    return static_cast<double>(part) / static_cast<double>(whole);
  };
  const auto n = static_cast<double>(readings.size());
  ReadingMeans means;
  for (const auto& layer : readings.front().entries_per_head) {
    means.kept_per_head.emplace_back(layer.size());
  }
  for (const ReadingStats& stats : readings) {
    means.kept_fraction += share(stats.entries, stats.entries_full);
    means.tokens += static_cast<double>(stats.tokens);
    means.kv_bytes += static_cast<double>(stats.kv_bytes);
    means.read_s += stats.read_s;
    means.score_s += stats.score_s;
    means.date = std::max(means.date, stats.date);
    for (size_t layer = 0; layer < means.kept_per_head.size(); ++layer) {
      for (size_t h = 0; h < means.kept_per_head[layer].size(); ++h) {
        means.kept_per_head[layer][h] +=
            share(stats.entries_per_head.at(layer).at(h), stats.tokens);
      }
    }
  }
  // Divided once, at the end, so that a mean of shares up to 1 cannot be rounded to above 1.
  for (double* sum :
       {&means.kept_fraction, &means.tokens, &means.kv_bytes, &means.read_s, &means.score_s}) {
    *sum /= n;
  }
  for (auto& layer : means.kept_per_head) {
    for (double& sum : layer) sum /= n;
  }
  return means;
}

void AddTried(Json& json, const Model& model, int64_t length, const TriedPlan& tried,
              const EvalFlags& flags) {
  const TriedPlan all[] = {tried};
  json["model"] = model.info().name;
  json["fingerprint"] = model.info().fingerprint;
  json["length"] = length;
  AddPlan(json, tried.plan);
  json["calibration"] = tried.calibration.empty() ? Json() : Json(tried.calibration);
  json["while_reading"] = flags.compression(all) == Compression::kWhileReading;
}

void AddMeans(Json& json, const ReadingMeans& means, const ReadingMeans& full,
              const EvalFlags& flags, const SessionOptions& options) {
  json["kept_fraction"] = means.kept_fraction;
  json["kept_per_head"] = means.kept_per_head;
  json["kv_bytes"] = means.kv_bytes;
  json["full_kv_bytes"] = full.kv_bytes;
  json["context_tokens"] = means.tokens;
  json["read_s"] = means.read_s;
  json["score_s"] = means.score_s;
  AddOrigin(json, flags, options, means.date);
}

void AddOrigin(Json& json, const EvalFlags& flags, const SessionOptions& options,
               const std::string& date) {
  json["trials"] = flags.trials();
  json["first_trial"] = flags.first_trial();
  json["seed"] = flags.seed();
  json["threads"] = options.n_threads;
  json["cpu"] = CpuName();
  json["version"] = PITH_VERSION;
  json["date"] = date;
}

std::vector<std::string> PlanCells(const TriedPlan& tried, int64_t length) {
  const Plan& plan = tried.plan;
  std::vector<std::string> cells = {WithCommas(length)};
  if (tried.full()) {
    cells.insert(cells.end(), {"full cache", "", "", ""});
  } else {
    const std::string file =
        tried.calibration.empty() ? "" : "@" + fs::path(tried.calibration).filename().string();
    std::string name = tried.evicts() ? plan.scorer + file : "all entries";
    if (!plan.tiers.empty()) {
      name += ", " + TiersToString(plan.tiers);
    } else if (plan.has_codes()) {
      name += fmt::format(", {}/{}", plan.key_codec, plan.value_codec);
    }
    cells.insert(cells.end(), {name, plan.keep.ToString(), tried.evicts() ? plan.budget : "",
                               fmt::format("{}", plan.window)});
  }
  return cells;
}

std::string Table(const std::vector<std::vector<std::string>>& rows) {
  const auto is_left = [](size_t column) { return column == 1 || column == 3; };  // names
  std::vector<size_t> widths(rows.front().size(), 3);  // Markdown wants three dashes
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string table;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      table += is_left(i) ? fmt::format("| {:<{}} ", row[i], widths[i])
                          : fmt::format("| {:>{}} ", row[i], widths[i]);
    }
    table += "|\n";
    if (&row != &rows.front()) continue;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string dashes(widths[i] - 1, '-');
      table += fmt::format("| {} ", is_left(i) ? dashes + "-" : dashes + ":");
    }
    table += "|\n";
  }
  return table;
}

}  // namespace pith::cli
