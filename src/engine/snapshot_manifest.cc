#include "engine/snapshot_manifest.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/fail.h"
#include "base/printable.h"
#include "budgets/budget.h"
#include "engine/plan_calibration.h"

namespace pith {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxSide = 1 << 20;  // layers and heads; their product fits into 64 bits
constexpr int64_t kMaxHeadDim = 256;

constexpr std::array<std::pair<Keep::Kind, std::string_view>, 5> kKinds = {
    {{Keep::Kind::kAll, "all"},
     {Keep::Kind::kFraction, "fraction"},
     {Keep::Kind::kEntries, "entries"},
     {Keep::Kind::kBytes, "bytes"},
     {Keep::Kind::kThreshold, "threshold"}}};

// Fields of an object by name, type and range.
class Fields {
 public:
  Fields(const Json& json, const std::string& file, std::string path)
      : json_(json), file_(file), path_(std::move(path)) {
    if (!json_.is_object()) Refuse("is not an object");
  }

  bool Has(const char* key) const { return json_.contains(key); }
  const Json& Any(const char* key) const {
    const auto found = json_.find(key);
    if (found == json_.end()) Refuse(fmt::format("has no \"{}\"", key));
    return *found;
  }
  Fields Object(const char* key) const { return {Any(key), file_, fmt::format("\"{}\"", key)}; }
  std::string String(const char* key) const {
    const Json& value = Any(key);
    if (!value.is_string()) Wrong(key, "a string");
    return value.get<std::string>();
  }
  int64_t Int(const char* key, int64_t least, int64_t most) const {
    return Int(Any(key), key, least, most);
  }
  int64_t Int(const Json& value, const char* key, int64_t least, int64_t most) const {
    const bool fits = value.is_number_unsigned() ? std::in_range<int64_t>(value.get<uint64_t>())
                                                 : value.is_number_integer();
    if (!fits || value.get<int64_t>() < least || value.get<int64_t>() > most) {
      Wrong(key, fmt::format("an integer from {} to {}", least, most));
    }
    return value.get<int64_t>();
  }
  uint64_t Unsigned(const char* key) const {
    const Json& value = Any(key);
    if (!value.is_number_unsigned()) Wrong(key, "an integer from 0 on");
    return value.get<uint64_t>();
  }
  double Double(const char* key) const {
    const Json& value = Any(key);
    if (!value.is_number() || !std::isfinite(value.get<double>())) Wrong(key, "a number");
    return value.get<double>();
  }
  bool Bool(const char* key) const {
    const Json& value = Any(key);
    if (!value.is_boolean()) Wrong(key, "true or false");
    return value.get<bool>();
  }
  const Json& Array(const char* key) const {
    const Json& value = Any(key);
    if (!value.is_array()) Wrong(key, "an array");
    return value;
  }
  uint64_t Hash(const char* key) const {
    const std::string text = String(key);
    uint64_t value = 0;
    const auto end = text.data() + text.size();
    if (text.size() != 16 || std::from_chars(text.data(), end, value, 16).ptr != end) {
      Wrong(key, "16 hex digits");
    }
    return value;
  }

  [[noreturn]] void Refuse(const std::string& what) const {
    Fail(ErrorCode::kFormat, "{}: the manifest is wrong: {} {}", file_, path_, what);
  }

 private:
  [[noreturn]] void Wrong(const char* key, const std::string& expected) const {
    Refuse(fmt::format("has a \"{}\" that is not {}", key, expected));
  }

  const Json& json_;
  const std::string& file_;
  std::string path_;
};

Json KeepJson(const Keep& keep) {
  Json json;
  for (const auto& [kind, name] : kKinds) {
    if (kind == keep.kind) json["kind"] = name;
  }
  if (keep.kind == Keep::Kind::kFraction) json["fraction"] = keep.fraction;
  if (keep.kind == Keep::Kind::kEntries) json["entries"] = keep.entries;
  if (keep.kind == Keep::Kind::kBytes) json["bytes"] = keep.bytes;
  if (keep.kind == Keep::Kind::kThreshold) json["tau"] = keep.tau;
  return json;
}

Keep ParseKeep(const Fields& fields) {
  const std::string name = fields.String("kind");
  const auto found =
      std::find_if(kKinds.begin(), kKinds.end(), [&](const auto& k) { return k.second == name; });
  if (found == kKinds.end()) {
    fields.Refuse(fmt::format("has an unknown kind {}", Printable(name)));
  }
  Keep keep;
  keep.kind = found->first;
  if (keep.kind == Keep::Kind::kFraction) keep.fraction = fields.Double("fraction");
  if (keep.kind == Keep::Kind::kEntries) {
    keep.entries = fields.Int("entries", 0, std::numeric_limits<int64_t>::max());
  }
  if (keep.kind == Keep::Kind::kBytes) keep.bytes = fields.Unsigned("bytes");
  if (keep.kind == Keep::Kind::kThreshold) keep.tau = fields.Double("tau");
  return keep;
}

Plan ParsePlan(const Fields& fields, int head_dim, const std::string& name) {
  Plan plan;
  plan.keep = ParseKeep(fields.Object("keep"));
  plan.scorer = fields.String("scorer");
  plan.budget = fields.String("budget");
  plan.head_floor = fields.Double("head_floor");
  plan.chunkwise = fields.Bool("chunkwise");
  plan.key_codec = fields.String("key_codec");
  plan.value_codec = fields.String("value_codec");
  plan.window = static_cast<int>(fields.Int("window", 0, kMaxInt));
  plan.sinks = static_cast<int>(fields.Int("sinks", 0, kMaxInt));
  plan.skip_layers = static_cast<int>(fields.Int("skip_layers", 0, kMaxInt));
  plan.seed = fields.Unsigned("seed");
  plan.kv_limit = fields.Unsigned("kv_limit");
  const auto names = ScorerNames();
  if (std::find(names.begin(), names.end(), plan.scorer) == names.end()) {
    Fail(ErrorCode::kFormat, "{}: the plan saved in it has an unknown scorer {}", name,
         Printable(plan.scorer));
  }
  const std::string tiers = fields.Has("tiers") ? fields.String("tiers") : "";
  try {
    if (!tiers.empty()) plan.tiers = ParseTiers(tiers);
    CheckPlan(plan);
    MakeBudget(plan, true);
    BytesOfTiers(plan.StoredTiers(), head_dim);
  } catch (const Error& e) {
    Fail(ErrorCode::kFormat, "{}: the plan saved in it makes no sense: {}", name, e.what());
  }
  return plan;
}

Steering::Knowledge ParseWorths(const Fields& fields) {
  Steering::Knowledge worths;
  for (const Json& value : fields.Array("quantiles")) {
    const float worth = value.is_number() ? value.get<float>() : NAN;
    if (!std::isfinite(worth) || (!worths.quantiles.empty() && worth < worths.quantiles.back())) {
      fields.Refuse("has \"quantiles\" that are not ascending numbers");
    }
    worths.quantiles.push_back(worth);
  }
  if (worths.quantiles.size() != Steering::kPoints) {
    fields.Refuse(fmt::format("has {} \"quantiles\", expected {}", worths.quantiles.size(),
                              Steering::kPoints));
  }
  worths.weight = fields.Double("weight");
  if (worths.weight < 0) fields.Refuse("has a \"weight\" below zero");
  return worths;
}

}  // namespace

std::string ManifestText(const SnapshotManifest& manifest) {
  const Plan& plan = manifest.plan;
  Json json = {
      {"model", {{"name", manifest.model_name}, {"fingerprint", manifest.model_fingerprint}}},
      {"shape",
       {{"n_layers", manifest.shape.n_layers},
        {"n_kv_heads", manifest.shape.n_kv_heads},
        {"head_dim", manifest.shape.head_dim}}},
      {"plan",
       {{"keep", KeepJson(plan.keep)},
        {"scorer", plan.scorer},
        {"budget", plan.budget},
        {"head_floor", plan.head_floor},
        {"chunkwise", plan.chunkwise},
        {"key_codec", plan.key_codec},
        {"value_codec", plan.value_codec},
        {"window", plan.window},
        {"sinks", plan.sinks},
        {"skip_layers", plan.skip_layers},
        {"seed", plan.seed},
        {"kv_limit", plan.kv_limit}}},
      {"calibration", manifest.calibration_hash},
      {"n_read", manifest.n_read},
      {"n_judged", manifest.n_judged},
      {"text_begin", manifest.text_begin},
      {"n_settled", manifest.n_settled},
      {"entries", manifest.entries},
      {"notes", manifest.notes},
  };
  if (manifest.worths) {
    json["worths"] = {{"quantiles", manifest.worths->quantiles},
                      {"weight", manifest.worths->weight}};
  }
  if (!plan.tiers.empty()) json["plan"]["tiers"] = TiersToString(plan.tiers);
  if (plan.has_codes()) {
    json["codes"] = {{"entries", manifest.coded}, {"n_stored", manifest.n_stored}};
    if (manifest.key_frames > 0) json["codes"]["key_frames"] = manifest.key_frames;
  }
  for (const auto& section : manifest.sections) {
    json["sections"].push_back({{"name", section.name},
                                {"offset", section.offset},
                                {"bytes", section.bytes},
                                {"xxh3", HashText(section.xxh3)}});
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

SnapshotManifest ParseManifest(std::string_view text, const std::string& name) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    Fail(ErrorCode::kFormat, "{}: the manifest is wrong: it is not JSON", name);
  }
  const Fields fields(json, name, "it");
  SnapshotManifest manifest;
  const Fields model = fields.Object("model");
  manifest.model_name = model.String("name");
  manifest.model_fingerprint = model.String("fingerprint");
  const Fields shape = fields.Object("shape");
  manifest.shape.n_layers = static_cast<int>(shape.Int("n_layers", 1, kMaxSide));
  manifest.shape.n_kv_heads = static_cast<int>(shape.Int("n_kv_heads", 1, kMaxSide));
  manifest.shape.head_dim = static_cast<int>(shape.Int("head_dim", 1, kMaxHeadDim));
  manifest.plan = ParsePlan(fields.Object("plan"), manifest.shape.head_dim, name);
  manifest.calibration_hash = fields.String("calibration");
  if (manifest.calibration_hash.empty() == NeedsCalibration(manifest.plan)) {
    fields.Refuse("has a calibration where the plan needs none, or none where it does");
  }
  manifest.n_read = fields.Int("n_read", 0, kMaxInt);
  manifest.n_judged = fields.Int("n_judged", 0, manifest.n_read);
  manifest.text_begin = fields.Int("text_begin", 0, manifest.n_judged);
  manifest.n_settled = fields.Int("n_settled", 0, manifest.n_read);
  if (json.contains("worths")) manifest.worths = ParseWorths(fields.Object("worths"));
  const Json& entries = fields.Array("entries");
  const int64_t n_heads = int64_t{manifest.shape.n_layers} * manifest.shape.n_kv_heads;
  if (entries.size() != static_cast<uint64_t>(n_heads)) {
    fields.Refuse(fmt::format("counts the entries of {} heads, expected {} x {}", entries.size(),
                              manifest.shape.n_layers, manifest.shape.n_kv_heads));
  }
  for (const Json& count : entries) {
    manifest.entries.push_back(fields.Int(count, "entries", 0, manifest.n_read));
  }
  if (manifest.plan.has_codes()) {
    const Fields codes = fields.Object("codes");
    manifest.n_stored = codes.Int("n_stored", 0, manifest.n_read);
    if (codes.Has("key_frames")) {
      manifest.key_frames = static_cast<int>(codes.Int("key_frames", 1, kMaxInt));
    }
    const Json& tiers = codes.Array("entries");
    const size_t n_tiers = manifest.plan.StoredTiers().size() - 1;
    if (tiers.size() != n_tiers) {
      codes.Refuse(fmt::format("count those of {} tiers, expected {}", tiers.size(), n_tiers));
    }
    std::vector<int64_t> left = manifest.entries;
    for (const Json& tier : tiers) {
      if (!tier.is_array() || tier.size() != entries.size()) {
        codes.Refuse(fmt::format("do not count those of {} heads in each tier", n_heads));
      }
      std::vector<int64_t>& coded = manifest.coded.emplace_back();
      for (size_t i = 0; i < tier.size(); ++i) {
        coded.push_back(codes.Int(tier[i], "entries", 0, left[i]));
        left[i] -= coded.back();
      }
    }
  }
  const Json& notes = fields.Any("notes");
  if (!notes.is_object()) fields.Refuse("has \"notes\" that are not an object");
  for (const auto& [key, value] : notes.items()) {
    if (!value.is_string()) fields.Refuse("has a note that is not a string");
    manifest.notes.emplace(key, value.get<std::string>());
  }
  for (const Json& section : fields.Array("sections")) {
    const Fields s(section, name, "a section");
    manifest.sections.push_back(
        {s.String("name"), s.Unsigned("offset"), s.Unsigned("bytes"), s.Hash("xxh3")});
  }
  return manifest;
}

}  // namespace pith
