// A conversation with a model, over a compressed cache.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
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
  // The scorers of these plans (with their calibrations and seeds) judge what is read, too, so that
  // a fork may go on with one of them: one reading compares many. 4 bytes an entry each, beside the
  // cache. Needs a plan that judges but evicts nothing (Keep::kFraction of 1).
  std::vector<Plan> also_judge;
};

struct ReadOptions {
  Progress
      progress;  // after every chunk: tokens read, or repeated to judge them, and how many in all
  // If set, called for every token of the call in order, with the logits after it [n_vocab].
  std::function<void(int64_t position, std::span<const float> logits)> on_logits;
  // What this call reads is never evicted (a system message, a question): its worth is infinite,
  // and nothing else is judged or evicted during the call.
  bool pin = false;
};

struct HeadStats {
  int layer = 0;
  int kv_head = 0;
  int64_t entries = 0;
};

// Entries that are stored alike.
struct TierStats {
  std::string key_codec;
  std::string value_codec;
  int64_t entries = 0;
  uint64_t page_bytes = 0;      // of their pages
  uint64_t codebook_bytes = 0;  // in memory beside the cache, shared with forks
};

struct CacheStats {
  int64_t tokens = 0;            // read so far
  int64_t entries = 0;           // kept, over all layers and KV heads
  int64_t entries_full = 0;      // had nothing been dropped
  uint64_t kv_bytes = 0;         // held now: pages, positions and scores, page tables
  uint64_t kv_bytes_peak = 0;    // most that was held at any time
  uint64_t kv_bytes_shared = 0;  // of kv_bytes: pages mapped from a snapshot or shared with forks
  uint64_t kv_bytes_full = 0;    // f16 K and V of every token read, nothing else
  std::vector<HeadStats> heads;
  std::vector<TierStats> tiers;  // the exact one first; another where the plan has other codecs
};

// Where the seconds went, summed over calls.
struct TimeStats {
  double read_s = 0;  // Read(), compression included
  int64_t read_tokens = 0;
  double next_s = 0;  // Next()
  int64_t next_tokens = 0;
  double attention_s = 0;  // of both, in the attention kernels
  double judge_s = 0;      // of both, scoring entries as they are appended, or whole layers later
  double score_s = 0;      // of Read(), repeating what was read in order to judge it
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

  // A session that goes on from here on its own. What was read is shared, not copied; only what one
  // of them changes later becomes its own. Forks may run in different threads. With a plan: another
  // keep, budget or window, a scorer of SessionOptions::also_judge, or codecs where the session has
  // f16, applied at once. Throws Error(kInvalidArgument) for a plan that differs in more.
  Session Fork();
  Session Fork(const Plan& plan);

  // Forgets all tokens but the first `n_tokens`, 0 <= n_tokens <= n_read(). What was evicted to
  // make room for them does not come back. Logits are empty until something is read.
  void DropTail(int64_t n_tokens);

  // Saves all that it takes to go on elsewhere (docs/formats.md), atomically: `file` is old or new,
  // never half. `notes` are strings for whoever loads it, such as what the text was.
  // Throws Error(kIo).
  void Save(const std::filesystem::path& file,
            const std::map<std::string, std::string>& notes = {}) const;

  // Maps a saved session; its pages are read where they lie in the file and shared by all who map
  // it. Every byte is verified first. The plan is the saved one; `calibration` is needed where its
  // scorer needs one. Queries are not saved: what a scorer found by them (snapkv, tova, expected)
  // stands until as many were asked again. Throws Error(kNotFound, kIo), kFormat naming what is
  // damaged, kMismatch for another model, calibration or version.
  static Session Load(const Model& model, const std::filesystem::path& file,
                      const SessionOptions& options = {},
                      std::shared_ptr<const Calibration> calibration = nullptr);

  // Logits after the last token read [n_vocab]; empty before the first.
  std::span<const float> logits() const;

  // Stops a Read or Next in another thread (or a signal handler) with Error(kCancelled) soon; when
  // none is running, the next one.
  void Cancel() noexcept;

  int64_t n_read() const;
  std::span<const Token> tokens() const;  // read so far [n_read]
  int n_ctx() const;
  const Model& model() const;
  const Plan& plan() const;
  CacheStats stats() const;
  TimeStats times() const;

  class Impl;
  Impl& impl() { return *impl_; }

 private:
  explicit Session(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pith
