// Who judges what: tasks of one KV head x one block of queries, taken as threads come free. The
// maximum does not depend on the order, so the result does not depend on the threads.
#include "attention/max_probability.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <vector>

#include "attention/aligned_floats.h"
#include "attention/kernels.h"
#include "base/fail.h"

namespace pith {
namespace {

// Rows of a query block: as for prefill, enough to pay for converting a page, few enough for the
// queries to stay in a second-level cache.
constexpr int kJudgeRows = 192;

}  // namespace

struct MaxProbability::Impl {
  Impl(const AttentionShape& s, int threads)
      : shape(s),
        group(s.n_heads / s.n_kv_heads),
        max_threads(threads),
        head_mutexes(s.n_kv_heads) {}

  AttentionShape shape;
  int group;
  int max_threads;

  // Of the sizes that were prepared.
  int n_tokens = 0;
  int64_t n_judged = 0;
  int query_block = 0;
  int n_query_blocks = 0;
  const Kernels* kernels = nullptr;
  size_t scratch_floats = 0;
  size_t thread_floats = 0;     // scratch and the maxima of a task
  AlignedFloats thread_memory;  // [max_threads, thread_floats]

  std::vector<std::mutex> head_mutexes;  // [n_kv_heads], of each head's part of the result
  // Zero between runs; the last thread to leave sees to it.
  std::atomic<int> next_task{0};
  std::atomic<int> n_left{0};

  void RunTask(const float* q, const JudgedHead& head, std::span<const float> log2_divisor,
               float* log2_max, int kv_head, int token_begin, float* scratch);
};

MaxProbability::MaxProbability(const AttentionShape& shape, int max_threads) {
  CheckAttentionShape(shape, max_threads);
  impl_ = std::make_unique<Impl>(shape, max_threads);
}

MaxProbability::~MaxProbability() = default;

void MaxProbability::Prepare(int n_tokens, int64_t n_judged) {
  if (n_tokens <= 0 || n_judged < 0) {
    Fail(ErrorCode::kInvalidArgument,
         "{} queries were given to judge {} entries by; expected at least 1 and at least 0.",
         n_tokens, n_judged);
  }
  Impl& p = *impl_;
  p.kernels = &CurrentKernels();
  if (n_tokens == p.n_tokens && n_judged == p.n_judged) return;
  p.n_tokens = 0;  // nothing is prepared if the allocation below fails
  const int wanted = std::max(kJudgeRows / p.group / kRowMultiple, 1) * kRowMultiple;
  p.query_block = std::min(n_tokens, wanted);
  p.n_query_blocks = (n_tokens + p.query_block - 1) / p.query_block;
  p.scratch_floats = WholeLines(JudgeFloats(p.shape.head_dim, p.group, p.query_block));
  p.thread_floats = p.scratch_floats + WholeLines(size_t{1} * p.group * MaxStride(n_judged));
  p.thread_memory = AllocateFloats(p.max_threads * p.thread_floats);
  p.n_judged = n_judged;
  p.n_tokens = n_tokens;
}

void MaxProbability::Run(const float* q, std::span<const JudgedHead> heads,
                         std::span<const float> log2_divisor, float* log2_max, int thread,
                         int n_threads) {
  Impl& p = *impl_;
  float* scratch = p.thread_memory.get() + thread * p.thread_floats;
  const int n_heads = p.shape.n_kv_heads;
  for (;;) {
    const int task = p.next_task.fetch_add(1, std::memory_order_relaxed);
    if (task >= p.n_query_blocks * n_heads) break;
    // The last queries see most and are begun first.
    const int block = p.n_query_blocks - 1 - task / n_heads;
    p.RunTask(q, heads[task % n_heads], log2_divisor, log2_max, task % n_heads,
              block * p.query_block, scratch);
  }
  // A thread that comes late must still find nothing left, so only the last to leave resets.
  if (p.n_left.fetch_add(1, std::memory_order_acq_rel) + 1 == n_threads) {
    p.next_task.store(0, std::memory_order_relaxed);
    p.n_left.store(0, std::memory_order_relaxed);
  }
}

void MaxProbability::Impl::RunTask(const float* q, const JudgedHead& head,
                                   std::span<const float> log2_divisor, float* log2_max,
                                   int kv_head, int token_begin, float* scratch) {
  const int64_t judged = head.end - head.begin;
  if (judged <= 0) return;
  const int64_t q_stride = int64_t{shape.n_heads} * shape.head_dim;
  const TierView& tier = head.view.tiers[0];
  const int64_t coded = head.view.n_entries() - tier.n_entries;
  const JudgeSegment segment = {
      .pages = tier.pages,
      .begin = head.begin - coded,
      .end = head.end - coded,
      .tail_begin = head.tail_begin - coded,
      .first_visible = tier.n_entries - n_tokens + token_begin + 1,
      .extra = head.extra,
      .head_dim = shape.head_dim,
      .group = group,
      .n_tokens = std::min(query_block, n_tokens - token_begin),
      .q = q + token_begin * q_stride + int64_t{kv_head} * group * shape.head_dim,
      .q_stride = q_stride,
      .scale = shape.scale * 1.44269504f,  // log2(e)
      .log2_divisor = log2_divisor.empty() ? nullptr : log2_divisor.data() + token_begin,
      .scratch = scratch,
      .max = scratch + scratch_floats,
      .max_stride = MaxStride(n_judged),
  };
  kernels->judge(segment);

  const std::scoped_lock lock(head_mutexes[kv_head]);
  for (int h = 0; h < group; ++h) {
    const float* from = segment.max + h * segment.max_stride + MaxOffset(segment.begin);
    float* to = log2_max + (int64_t{kv_head} * group + h) * judged;
    for (int64_t i = 0; i < judged; ++i) to[i] = from[i] > to[i] ? from[i] : to[i];
  }
}

}  // namespace pith
