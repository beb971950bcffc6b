#include "cache/codec.h"

#include <utility>

#include "base/fail.h"
#include "cache/f16_codec.h"
#include "cache/quantised_codec.h"

namespace pith {
namespace {

[[noreturn]] void UnknownCodec(std::string_view what, std::string_view name) {
  Fail(ErrorCode::kInvalidArgument, "{} codec '{}' is not known; pith has f16, q8 and q4", what,
       name);
}

}  // namespace

std::unique_ptr<Codec> MakeKeyCodec(std::string_view name, int head_dim) {
  if (name == "f16") return std::make_unique<F16KeyCodec>(head_dim);
  if (name == "q8")
    return std::make_unique<QuantisedCodec>(CodecId::kQ8, PagePart::kKeys, head_dim);
  if (name == "q4")
    return std::make_unique<QuantisedCodec>(CodecId::kQ4, PagePart::kKeys, head_dim);
  UnknownCodec("key", name);
}

std::unique_ptr<Codec> MakeValueCodec(std::string_view name, int head_dim) {
  if (name == "f16") return std::make_unique<F16ValueCodec>(head_dim);
  if (name == "q8")
    return std::make_unique<QuantisedCodec>(CodecId::kQ8, PagePart::kValues, head_dim);
  if (name == "q4")
    return std::make_unique<QuantisedCodec>(CodecId::kQ4, PagePart::kValues, head_dim);
  UnknownCodec("value", name);
}

std::vector<TierCodecs> MakeTiers(std::string_view key_codec, std::string_view value_codec,
                                  int head_dim) {
  std::vector<TierCodecs> tiers = {
      {MakeKeyCodec("f16", head_dim), MakeValueCodec("f16", head_dim)}};
  TierCodecs coded = {MakeKeyCodec(key_codec, head_dim), MakeValueCodec(value_codec, head_dim)};
  if (key_codec != "f16" || value_codec != "f16") tiers.push_back(std::move(coded));
  return tiers;
}

}  // namespace pith
