// `--tiers` as people write them, and what they mean.
#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "pith/plan.h"

namespace pith {
namespace {

constexpr std::string_view kExact = "f16";

// To 12 digits, so that 10% and 20% make 30% and not a little more.
double Sum(double a, double b) { return std::round((a + b) * 1e12) / 1e12; }

Tier ParseTier(std::string_view part, std::string_view text) {
  const size_t colon = part.find(':');
  const std::string_view codecs = part.substr(0, colon);
  const size_t slash = codecs.find('/');
  const std::string_view keys = codecs.substr(0, slash);
  const std::string_view share = colon == std::string_view::npos ? "" : part.substr(colon + 1);
  const bool of_keys_alone = keys.starts_with("pq") || keys.starts_with("lr");
  const std::string_view values = slash != std::string_view::npos ? codecs.substr(slash + 1)
                                  : of_keys_alone                 ? "q4"
                                                                  : keys;
  Keep keep;
  try {
    if (share.ends_with('%')) keep = Keep::Parse(share);
  } catch (const Error&) {  // no share above 0% and up to 100%
  }
  if (keys.empty() || values.empty() || (keep.kind == Keep::Kind::kAll && share != "100%")) {
    Fail(ErrorCode::kInvalidArgument,
         "'{}' in the tiers '{}' is not KEYS:SHARE or KEYS/VALUES:SHARE, such as q8:15% or "
         "pq8x16/q4:50%",
         part, text);
  }
  return {std::string(keys), std::string(values), keep.fraction};
}

}  // namespace

std::vector<Tier> ParseTiers(std::string_view text) {
  std::vector<Tier> tiers;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    tiers.push_back(ParseTier(text.substr(begin, end - begin), text));
    begin = end + 1;
  }
  const double all = KeepOf(tiers).fraction;
  if (all > 1) {
    Fail(ErrorCode::kInvalidArgument,
         "the shares of the tiers '{}' make {:.12g}%, expected at most 100%", text, all * 100);
  }
  return tiers;
}

std::string TiersToString(std::span<const Tier> tiers) {
  std::string text;
  for (const Tier& tier : tiers) {
    if (!text.empty()) text += ',';
    text += tier.key_codec;
    if (tier.value_codec != tier.key_codec) text += '/' + tier.value_codec;
    text += ':' + Keep{Keep::Kind::kFraction, tier.share}.ToString();
  }
  return text;
}

Keep KeepOf(std::span<const Tier> tiers) {
  Keep keep;
  keep.kind = Keep::Kind::kFraction;
  keep.fraction = 0;
  for (const Tier& tier : tiers) keep.fraction = Sum(keep.fraction, tier.share);
  return keep;
}

std::vector<Tier> Plan::StoredTiers() const {
  std::vector<Tier> stored = {Tier()};
  std::span<const Tier> coded = tiers;
  const Tier all = {key_codec, value_codec, 1};
  if (coded.empty()) coded = {&all, 1};
  if (coded[0].key_codec == kExact && coded[0].value_codec == kExact) {
    stored[0].share = coded[0].share;
    coded = coded.subspan(1);
  }
  for (const Tier& tier : coded) {
    stored.push_back({tier.key_codec, tier.value_codec, Sum(stored.back().share, tier.share)});
  }
  return stored;
}

}  // namespace pith
