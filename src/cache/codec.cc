#include "cache/codec.h"

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

}  // namespace pith
