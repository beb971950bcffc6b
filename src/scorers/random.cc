#include <xxhash.h>

#include <array>

#include "scorers/methods.h"

namespace pith {
namespace {

class Random : public Scorer {
 public:
  explicit Random(uint64_t seed) : seed_(seed) {}

  bool comparable_across_heads() const override { return true; }

  // A hash and not a generator, so that the worth does not depend on how a prompt was cut.
  void Score(const Entries& entries, std::span<float> worth) const override {
    constexpr int kMantissa = 24;  // a float holds every multiple of 2^-24 below 1
    for (size_t i = 0; i < worth.size(); ++i) {
      const std::array<int32_t, 3> key = {entries.layer, entries.kv_head, entries.positions[i]};
      const uint64_t hash = XXH3_64bits_withSeed(key.data(), sizeof(key), seed_);
      worth[i] = static_cast<float>(hash >> (64 - kMantissa)) / (1 << kMantissa);
    }
  }

 private:
  uint64_t seed_;
};

}  // namespace

std::unique_ptr<Scorer> MakeRandom(const Plan& plan, const ModelInfo& /*model*/) {
  return std::make_unique<Random>(plan.seed);
}

}  // namespace pith
