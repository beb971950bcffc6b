#include "engine/synthetic_read.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>
#include <span>
#include <vector>

#include "base/fail.h"
#include "engine/session_impl.h"

namespace pith {
namespace {

// Of the worths' variance: between heads. Heads then differ in what they keep by several times, as
// they do in trained models.
constexpr float kBetweenHeads = 0.5f;

// Turns standard normal numbers into worths.
class WorthShape {
 public:
  // quantiles: ascending, or empty for worths that are standard normal themselves.
  explicit WorthShape(std::span<const float> quantiles) : quantiles_(quantiles) {}

  float operator()(float normal) const {
    if (quantiles_.size() < 2) return normal;
    const float part = 0.5f * std::erfc(-normal / std::numbers::sqrt2_v<float>);
    const float place = part * static_cast<float>(quantiles_.size() - 1);
    const size_t below = std::min(static_cast<size_t>(place), quantiles_.size() - 2);
    const float to_next = place - static_cast<float>(below);
    return quantiles_[below] + to_next * (quantiles_[below + 1] - quantiles_[below]);
  }

 private:
  std::span<const float> quantiles_;
};

}  // namespace

void ReadSynthetic(Session& session, int64_t n_tokens, uint64_t seed) {
  Session::Impl& impl = session.impl();
  const ModelInfo& info = impl.model.info();
  if (n_tokens < 0 || impl.n_read + n_tokens > impl.n_ctx) {
    Fail(ErrorCode::kInvalidArgument,
         "{} made-up tokens would follow {} already read, over the context of {}", n_tokens,
         impl.n_read, impl.n_ctx);
  }
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 1);
  const auto head_dim = static_cast<size_t>(info.head_dim);
  const auto n_batch = static_cast<size_t>(impl.n_batch);
  const WorthShape worth_of(WorthQuantiles(impl.plan));
  std::vector<float> head_levels(size_t{1} * info.n_layers * info.n_kv_heads);
  for (float& level : head_levels) level = std::sqrt(kBetweenHeads) * normal(random);
  // One store of rows for all: every run of rows starts somewhere else in it.
  std::vector<float> store(4 * n_batch * head_dim);
  for (float& element : store) element = normal(random);
  const auto rows = [&](size_t n) {
    const size_t first = random() % (4 * n_batch - n + 1);
    return MatrixView<const float>{store.data() + first * head_dim, n, head_dim, head_dim};
  };

  impl.logits.clear();
  std::vector<float> worth;
  for (const int64_t end = impl.n_read + n_tokens; impl.n_read < end;) {
    const auto n = static_cast<size_t>(std::min<int64_t>(impl.n_batch, end - impl.n_read));
    worth.resize(n);
    impl.tokens.reserve(impl.tokens.size() + n);
    impl.cache.BeginChunk(static_cast<int>(n), static_cast<int32_t>(impl.n_read));
    for (size_t head = 0; head < head_levels.size(); ++head) {
      for (float& w : worth) {
        w = worth_of(head_levels[head] + std::sqrt(1 - kBetweenHeads) * normal(random));
      }
      const int layer = static_cast<int>(head) / info.n_kv_heads;
      impl.cache.Write(layer, static_cast<int>(head) % info.n_kv_heads, 0, rows(n), rows(n), worth);
    }
    impl.cache.EndChunk();
    impl.tokens.resize(impl.tokens.size() + n);
    impl.n_read += static_cast<int64_t>(n);
    // A repeat pass would have nothing to repeat.
    impl.n_judged = impl.text_begin = impl.n_read;
    impl.SettleNow();
  }
}

}  // namespace pith
