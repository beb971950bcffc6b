// What people write of a plan: --keep, sizes, --tiers and names of codecs.
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>
#include <string_view>

#include "cache/codec.h"
#include "cache/pq_codebook.h"
#include "fuzz/seeds.h"
#include "pith/error.h"
#include "pith/plan.h"

namespace {

void Require(bool holds, const char* what, std::string_view text) {
  if (holds) return;
  std::cerr << what << ": '" << text << "'\n";
  std::abort();
}

// Text is refused in a sentence, or taken.
template <typename Action>
void Try(std::string_view text, Action action) {
  try {
    action();
  } catch (const pith::Error& error) {
    Require(error.code() == pith::ErrorCode::kInvalidArgument, error.what(), text);
  }
}

void CheckTiers(std::string_view text) {
  pith::Plan plan;
  Try(text, [&] { plan.tiers = pith::ParseTiers(text); });
  if (plan.tiers.empty()) return;
  for (const int head_dim : {64, 80}) {
    bool known = false;
    Try(text, [&] {
      pith::BytesOfTiers(plan.StoredTiers(), head_dim);
      known = true;
    });
    if (!known) continue;
    const std::string written = pith::TiersToString(plan.tiers);
    Require(pith::TiersToString(pith::ParseTiers(written)) == written, "tiers change", text);
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  pith::testing::WriteSeeds(*argc, *argv,
                            {"25%", "0.001%", "512", "64MiB", "1.5GiB", "800KB", "tau=-4.25", "f16",
                             "q4", "pq8x16", "pq4x32", "lr32", "lr48q4",
                             "f16:10%,q8:15.5%,pq8x16/q4:50%", "q8/q4:20%,pq4x16:30%", "q8:100%"});
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  Try(text, [&] {
    const std::string written = pith::Keep::Parse(text).ToString();
    Require(pith::Keep::Parse(written).ToString() == written, "what to keep changes", text);
  });
  Try(text, [&] { pith::ParseBytes(text); });
  CheckTiers(text);
  if (const auto shape = pith::ParsePqShape(text)) {
    Require(shape->name() == text, "the codec's name changes", text);
  }
  Try(text, [&] { pith::MakeKeyCodec(text, 64); });
  Try(text, [&] { pith::MakeValueCodec(text, 64); });
  return 0;
}
