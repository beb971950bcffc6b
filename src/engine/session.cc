#include "pith/session.h"

#include "engine/session_impl.h"

namespace pith {

Session::Session(const Model& model, const Plan& plan, const SessionOptions& options)
    : impl_(std::make_unique<Impl>(model, plan, options)) {}
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

void Session::Read(std::span<const Token> tokens, const ReadOptions& options) {
  impl_->Read(tokens, options);
}

std::span<const float> Session::Next(Token token) {
  impl_->Next(token);
  return impl_->logits;
}

std::span<const float> Session::logits() const { return impl_->logits; }

void Session::Cancel() noexcept { impl_->cancelled = true; }

int64_t Session::n_read() const { return impl_->n_read; }
int Session::n_ctx() const { return impl_->n_ctx; }
const Model& Session::model() const { return impl_->model; }
const Plan& Session::plan() const { return impl_->plan; }
std::span<const Token> Session::tokens() const { return impl_->tokens; }
TimeStats Session::times() const { return impl_->times; }

CacheStats Session::stats() const {
  const Cache& cache = impl_->cache;
  const CacheShape& shape = cache.shape();
  const int64_t n_heads = int64_t{shape.n_layers} * shape.n_kv_heads;
  CacheStats stats;
  stats.tokens = impl_->n_read;
  stats.entries = cache.total_entries();
  stats.entries_full = impl_->n_read * n_heads;
  stats.kv_bytes = cache.allocated_bytes();
  stats.kv_bytes_peak = cache.peak_bytes();
  stats.kv_bytes_full =
      static_cast<uint64_t>(stats.entries_full) * shape.head_dim * 2 * sizeof(uint16_t);
  for (int layer = 0; layer < shape.n_layers; ++layer) {
    for (int h = 0; h < shape.n_kv_heads; ++h) {
      stats.heads.push_back({layer, h, cache.n_entries(layer, h)});
    }
  }
  return stats;
}

}  // namespace pith
