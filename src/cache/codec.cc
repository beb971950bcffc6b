#include "cache/codec.h"

#include <fmt/ranges.h>

#include <optional>
#include <string>
#include <utility>

#include "base/fail.h"
#include "cache/f16_codec.h"
#include "cache/low_rank_codec.h"
#include "cache/pq_key_codec.h"
#include "cache/quantised_codec.h"

namespace pith {
namespace {

[[noreturn]] void UnknownCodec(std::string_view what, std::string_view name,
                               std::string_view known) {
  Fail(ErrorCode::kInvalidArgument, "{} codec '{}' is not known; pith has {}", what, name, known);
}

std::optional<PqShape> PqShapeFor(std::string_view name, int head_dim) {
  const std::optional<PqShape> shape = ParsePqShape(name);
  if (shape) CheckPqShape(*shape, head_dim);
  return shape;
}

std::optional<LowRankShape> LowRankFor(std::string_view name, int head_dim) {
  const std::optional<LowRankShape> shape = ParseLowRank(name);
  if (shape) CheckLowRank(*shape, head_dim);
  return shape;
}

// A head's of `n` numbers a head.
std::span<const float> OfHead(const std::vector<float>& values, size_t head, size_t n) {
  return std::span(values).subspan(head * n, n);
}

std::vector<PqCodebook> CodebooksOf(const PqShape& shape, const PqCodebooks* all) {
  const std::string name = shape.name();
  if (all == nullptr || !all->centroids.contains(name)) {
    std::vector<std::string> names;
    if (all != nullptr) {
      for (const auto& [codec, centroids] : all->centroids) names.push_back(codec);
    }
    const std::string there = names.empty()
                                  ? "none are given"
                                  : fmt::format("those given are for {}", fmt::join(names, ", "));
    Fail(ErrorCode::kInvalidArgument,
         "keys as {} need codebooks for it, but {}; make them with pith calibrate --codebooks {}",
         name, there, name);
  }
  const std::vector<float>& centroids = all->centroids.at(name);
  const auto dim = static_cast<size_t>(all->head_dim);
  const size_t n_heads = size_t{1} * all->n_layers * all->n_kv_heads;
  std::vector<PqCodebook> codebooks;
  codebooks.reserve(n_heads);
  for (size_t head = 0; head < n_heads; ++head) {
    codebooks.emplace_back(shape, OfHead(all->centre, head, dim), OfHead(all->map, head, dim * dim),
                           OfHead(centroids, head, dim * shape.n_centroids()));
  }
  return codebooks;
}

std::vector<LowRankBasis> BasesOf(const LowRankShape& shape, const PqCodebooks* all) {
  if (all == nullptr || all->energy.empty()) {
    Fail(ErrorCode::kInvalidArgument,
         "keys as {} need directions, but {}; make them with pith calibrate --codebooks pq8x16",
         shape.name(),
         all == nullptr ? "none are given" : "these codebooks do not say which count");
  }
  const auto dim = static_cast<size_t>(all->head_dim);
  std::vector<LowRankBasis> bases;
  for (size_t head = 0; head < all->energy.size() / dim; ++head) {
    bases.emplace_back(shape.rank, OfHead(all->centre, head, dim),
                       OfHead(all->map, head, dim * dim), OfHead(all->energy, head, dim));
  }
  return bases;
}

}  // namespace

std::unique_ptr<Codec> MakeKeyCodec(std::string_view name, int head_dim,
                                    const PqCodebooks* codebooks, const KeyFrames* frames) {
  if (name == "f16") return std::make_unique<F16KeyCodec>(head_dim);
  if (name == "q8")
    return std::make_unique<QuantisedCodec>(CodecId::kQ8, PagePart::kKeys, head_dim, frames);
  if (name == "q4")
    return std::make_unique<QuantisedCodec>(CodecId::kQ4, PagePart::kKeys, head_dim, frames);
  if (const auto shape = PqShapeFor(name, head_dim)) {
    return std::make_unique<PqKeyCodec>(CodebooksOf(*shape, codebooks));
  }
  if (const auto shape = LowRankFor(name, head_dim)) {
    return std::make_unique<LowRankKeyCodec>(*shape, BasesOf(*shape, codebooks));
  }
  UnknownCodec("key", name, "f16, q8, q4, pq8xM, pq4xM, lrR and lrRq4");
}

std::unique_ptr<Codec> MakeValueCodec(std::string_view name, int head_dim) {
  if (name == "f16") return std::make_unique<F16ValueCodec>(head_dim);
  if (name == "q8")
    return std::make_unique<QuantisedCodec>(CodecId::kQ8, PagePart::kValues, head_dim);
  if (name == "q4")
    return std::make_unique<QuantisedCodec>(CodecId::kQ4, PagePart::kValues, head_dim);
  UnknownCodec("value", name, "f16, q8 and q4");
}

std::vector<TierCodecs> MakeTiers(std::span<const Tier> tiers, int head_dim,
                                  const PqCodebooks* codebooks, const KeyFrames* frames) {
  BytesOfTiers(tiers, head_dim);
  std::vector<TierCodecs> codecs;
  for (const Tier& tier : tiers) {
    codecs.push_back({MakeKeyCodec(tier.key_codec, head_dim, codebooks, frames),
                      MakeValueCodec(tier.value_codec, head_dim)});
  }
  return codecs;
}

std::vector<TierBytes> BytesOfTiers(std::span<const Tier> tiers, int head_dim) {
  if (tiers.size() > kMaxTiers) {
    Fail(ErrorCode::kInvalidArgument,
         "{} tiers, the exact one of window and sinks included, expected at most {}", tiers.size(),
         kMaxTiers);
  }
  std::vector<TierBytes> bytes;
  for (const Tier& tier : tiers) {
    TierBytes& of_tier = bytes.emplace_back();
    of_tier.page = MakeValueCodec(tier.value_codec, head_dim)->PageBytes();
    if (const auto shape = PqShapeFor(tier.key_codec, head_dim)) {
      of_tier.page += kPageEntries * static_cast<size_t>(shape->key_bytes());
      of_tier.codebooks_per_head = PqCodebook::Bytes(*shape, head_dim);
    } else if (const auto low_rank = LowRankFor(tier.key_codec, head_dim)) {
      of_tier.page += 2 * KeyBlockBytes(low_rank->coefficients, low_rank->rank);
      of_tier.codebooks_per_head = LowRankBasis::Bytes(low_rank->rank, head_dim);
    } else {
      of_tier.page += MakeKeyCodec(tier.key_codec, head_dim)->PageBytes();
    }
    const size_t before = bytes.size() > 1 ? bytes[bytes.size() - 2].page : of_tier.page + 1;
    if (of_tier.page < before) continue;
    Fail(ErrorCode::kInvalidArgument,
         "tiers get smaller from first to last, but {}/{} takes {} bytes an entry after one of {}",
         tier.key_codec, tier.value_codec, of_tier.page / kPageEntries, before / kPageEntries);
  }
  return bytes;
}

}  // namespace pith
