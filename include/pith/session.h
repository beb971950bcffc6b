// A conversation with a model, over a compressed cache.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pith/model.h"
#include "pith/plan.h"

namespace pith {

struct SessionOptions {
  int n_batch = 512;  // tokens of a prompt read at once
  int n_threads = 0;  // 0: one per core
  int n_ctx = 0;      // longest sequence, 0: the model's own; never above it
};

struct ReadOptions {
  Progress progress;  // after every chunk: tokens read and to read in this call
  // If set, called for every token of the call in order, with the logits after it [n_vocab].
  std::function<void(int64_t position, std::span<const float> logits)> on_logits;
};

struct HeadStats {
  int layer = 0;
  int kv_head = 0;
  int64_t entries = 0;
};

struct CacheStats {
  int64_t tokens = 0;          // read so far
  int64_t entries = 0;         // kept, over all layers and KV heads
  int64_t entries_full = 0;    // had nothing been dropped
  uint64_t kv_bytes = 0;       // allocated now: pages, positions and scores, page tables
  uint64_t kv_bytes_peak = 0;  // most that was allocated at any time
  uint64_t kv_bytes_full = 0;  // f16 K and V of every token read, nothing else
  std::vector<HeadStats> heads;
};

// Where the seconds went, summed over calls.
struct TimeStats {
  double read_s = 0;  // Read(), compression included
  int64_t read_tokens = 0;
  double next_s = 0;  // Next()
  int64_t next_tokens = 0;
  double attention_s = 0;  // of both, in the attention kernels
  double settle_s = 0;     // of both, choosing and evicting
};

// Not for use by several threads at once, except Cancel().
class Session {
 public:
  // Throws Error(kInvalidArgument, kMismatch) for a plan that does not make sense for the model.
  explicit Session(const Model& model, const Plan& plan = {}, const SessionOptions& options = {});
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;

  // Reads tokens in chunks of n_batch, compressing on the way: KV memory stays within the budget
  // plus one chunk. Throws Error(kInvalidArgument) when the context would overflow or a token is
  // out of range (nothing is read), kMemoryLimit or kCancelled (whole chunks before it stay read).
  void Read(std::span<const Token> tokens, const ReadOptions& options = {});

  // Reads one token and returns the logits after it [n_vocab], valid until the next call.
  std::span<const float> Next(Token token);

  // Logits after the last token read [n_vocab]; empty before the first.
  std::span<const float> logits() const;

  // Stops a Read or Next in another thread (or a signal handler) with Error(kCancelled) soon; when
  // none is running, the next one.
  void Cancel() noexcept;

  int64_t n_read() const;
  int n_ctx() const;
  const Model& model() const;
  const Plan& plan() const;
  CacheStats stats() const;
  TimeStats times() const;

  class Impl;
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace pith
