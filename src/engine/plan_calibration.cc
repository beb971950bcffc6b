#include "engine/plan_calibration.h"

#include <xxhash.h>

#include <algorithm>
#include <iterator>
#include <memory>

#include "base/fail.h"
#include "cache/low_rank.h"
#include "cache/pq_codebook.h"

namespace pith {
namespace {

using Values = std::vector<std::span<const float>>;

Values Filters(const Calibration& calibration) {
  if (calibration.q_filters.empty()) return {};
  return {calibration.q_filters};
}

Values Kvzap(const Calibration& calibration) {
  Values values;
  if (!calibration.kvzap) return values;
  for (const KvzapLayer& layer : calibration.kvzap->layers) {
    values.insert(values.end(), {layer.weight_in, layer.bias_in, layer.weight, layer.bias});
  }
  values.emplace_back(calibration.kvzap->quantiles);
  return values;
}

Values KvzapPlus(const Calibration& calibration) {
  Values values;
  if (!calibration.kvzap_plus) return values;
  for (const KvzapPlusLayer& layer : calibration.kvzap_plus->layers) {
    values.insert(values.end(), {layer.weight, layer.key_weight, layer.norm_weight, layer.bias});
  }
  values.emplace_back(calibration.kvzap_plus->quantiles);
  return values;
}

Values Queries(const Calibration& calibration) {
  if (!calibration.queries) return {};
  return {calibration.queries->mean, calibration.queries->covariance};
}

Values Curves(const Calibration& calibration) {
  if (!calibration.curves) return {};
  return {calibration.curves->loss};
}

CalibrationPart Codebooks(const std::string& codec) {
  return {"codebooks for " + codec, "--codebooks " + codec,
          [codec](const Calibration& calibration) {
            Values values;
            if (!calibration.codebooks) return values;
            const auto centroids = calibration.codebooks->centroids.find(codec);
            if (centroids == calibration.codebooks->centroids.end()) return values;
            values = {calibration.codebooks->centre, calibration.codebooks->map, centroids->second};
            return values;
          }};
}

CalibrationPart Directions(const std::string& codec) {
  return {"directions for " + codec, "--codebooks pq8x16", [](const Calibration& calibration) {
            Values values;
            if (!calibration.codebooks || calibration.codebooks->energy.empty()) return values;
            const PqCodebooks& codebooks = *calibration.codebooks;
            values = {codebooks.centre, codebooks.map, codebooks.energy};
            return values;
          }};
}

}  // namespace

std::vector<CalibrationPart> PartsOfScorer(const Plan& plan) {
  if (plan.keep.kind == Keep::Kind::kAll) return {};
  const CalibrationPart queries = {"mean and variance of queries", "", Queries};
  if (plan.scorer == "qfilter") return {{"Q-Filters", "", Filters}};
  if (plan.scorer == "qfilter+") return {queries, {"loss curves", "", Curves}};
  if (plan.scorer == "kvzap") return {{"a surrogate for kvzap", "--kvzap linear", Kvzap}};
  if (plan.scorer == "kvzap+") return {{"a surrogate for kvzap+", "--kvzap plus", KvzapPlus}};
  if (plan.scorer == "expected_calibrated") return {queries};
  return {};
}

std::vector<CalibrationPart> PartsOfCodecs(const Plan& plan) {
  std::vector<CalibrationPart> parts;
  for (const Tier& tier : plan.StoredTiers()) {
    CalibrationPart part;
    if (ParsePqShape(tier.key_codec)) part = Codebooks(tier.key_codec);
    if (ParseLowRank(tier.key_codec)) part = Directions(tier.key_codec);
    const bool is_new = std::ranges::find(parts, part.name, &CalibrationPart::name) == parts.end();
    if (!part.name.empty() && is_new) parts.push_back(std::move(part));
  }
  return parts;
}

std::vector<CalibrationPart> CalibrationParts(const Plan& plan) {
  std::vector<CalibrationPart> parts = PartsOfScorer(plan);
  std::ranges::move(PartsOfCodecs(plan), std::back_inserter(parts));
  return parts;
}

std::vector<CalibrationPart> MissingParts(const Calibration* calibration, const Plan& plan) {
  std::vector<CalibrationPart> parts = CalibrationParts(plan);
  std::erase_if(parts, [&](const CalibrationPart& part) {
    return calibration != nullptr && !part.values(*calibration).empty();
  });
  return parts;
}

uint64_t CalibrationDigest(std::span<const CalibrationPart> parts, const Calibration& calibration) {
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(),
                                                                       XXH3_freeState);
  XXH3_64bits_reset(state.get());
  for (const CalibrationPart& part : parts) {
    for (const std::span<const float> values : part.values(calibration)) {
      XXH3_64bits_update(state.get(), values.data(), values.size_bytes());
    }
  }
  return XXH3_64bits_digest(state.get());
}

std::string CalibrationHash(const Plan& plan) {
  const std::vector<CalibrationPart> parts = CalibrationParts(plan);
  return parts.empty() ? "" : HashText(CalibrationDigest(parts, *plan.calibration));
}

std::string HashText(uint64_t xxh3) { return fmt::format("{:016x}", xxh3); }

}  // namespace pith
