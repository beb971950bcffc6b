#include "cache/codec.h"

#include <fmt/ranges.h>

#include <optional>
#include <ranges>
#include <string>
#include <utility>

#include "base/fail.h"
#include "cache/f16_codec.h"
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

std::vector<PqCodebook> CodebooksOf(const PqShape& shape, const PqCodebooks* all) {
  const std::string name = shape.name();
  if (all == nullptr || !all->centroids.contains(name)) {
    const std::string there = all == nullptr
                                  ? "none are given"
                                  : fmt::format("those given are for {}",
                                                fmt::join(std::views::keys(all->centroids), ", "));
    Fail(ErrorCode::kInvalidArgument,
         "keys as {} need codebooks for it, but {}; make them with pith calibrate --codebooks {}",
         name, there, name);
  }
  const std::vector<float>& centroids = all->centroids.at(name);
  const auto dim = static_cast<size_t>(all->head_dim);
  const size_t n_heads = size_t{1} * all->n_layers * all->n_kv_heads;
  const auto of_head = [](const std::vector<float>& values, size_t head, size_t n) {
    return std::span(values).subspan(head * n, n);
  };
  std::vector<PqCodebook> codebooks;
  codebooks.reserve(n_heads);
  for (size_t head = 0; head < n_heads; ++head) {
    codebooks.emplace_back(shape, of_head(all->centre, head, dim),
                           of_head(all->map, head, dim * dim),
                           of_head(centroids, head, dim * shape.n_centroids()));
  }
  return codebooks;
}

}  // namespace

std::unique_ptr<Codec> MakeKeyCodec(std::string_view name, int head_dim,
                                    const PqCodebooks* codebooks) {
  if (name == "f16") return std::make_unique<F16KeyCodec>(head_dim);
  if (name == "q8")
    return std::make_unique<QuantisedCodec>(CodecId::kQ8, PagePart::kKeys, head_dim);
  if (name == "q4")
    return std::make_unique<QuantisedCodec>(CodecId::kQ4, PagePart::kKeys, head_dim);
  if (const auto shape = PqShapeFor(name, head_dim)) {
    return std::make_unique<PqKeyCodec>(CodebooksOf(*shape, codebooks));
  }
  UnknownCodec("key", name, "f16, q8, q4, pq8xM and pq4xM");
}

std::unique_ptr<Codec> MakeValueCodec(std::string_view name, int head_dim) {
  if (name == "f16") return std::make_unique<F16ValueCodec>(head_dim);
  if (name == "q8")
    return std::make_unique<QuantisedCodec>(CodecId::kQ8, PagePart::kValues, head_dim);
  if (name == "q4")
    return std::make_unique<QuantisedCodec>(CodecId::kQ4, PagePart::kValues, head_dim);
  UnknownCodec("value", name, "f16, q8 and q4");
}

std::vector<TierCodecs> MakeTiers(std::string_view key_codec, std::string_view value_codec,
                                  int head_dim, const PqCodebooks* codebooks) {
  std::vector<TierCodecs> tiers = {
      {MakeKeyCodec("f16", head_dim), MakeValueCodec("f16", head_dim)}};
  TierCodecs coded = {MakeKeyCodec(key_codec, head_dim, codebooks),
                      MakeValueCodec(value_codec, head_dim)};
  if (key_codec != "f16" || value_codec != "f16") tiers.push_back(std::move(coded));
  return tiers;
}

TierBytes BytesOfTier(std::string_view key_codec, std::string_view value_codec, int head_dim) {
  const size_t values = MakeValueCodec(value_codec, head_dim)->PageBytes();
  if (const auto shape = PqShapeFor(key_codec, head_dim)) {
    return {kPageEntries * static_cast<size_t>(shape->key_bytes()) + values,
            PqCodebook::Bytes(*shape, head_dim)};
  }
  return {MakeKeyCodec(key_codec, head_dim)->PageBytes() + values};
}

}  // namespace pith
