// Runs the schedule: who computes what, and how partial softmax states come together.
#include "attention/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "attention/aligned_floats.h"
#include "attention/kernels.h"
#include "attention/schedule.h"
#include "attention/softmax_state.h"
#include "base/fail.h"

namespace pith {
namespace {

// Rows of a query block in prefill: enough to pay for converting a page to f32, few enough for
// queries, scores and states to stay in a second-level cache of 512 KiB.
constexpr int kPrefillRows = 192;
// Prefill takes long enough for threads to be disturbed: several parts each even that out.
constexpr int kPrefillPartsPerThread = 4;

constexpr size_t StateFloats(int head_dim, int n_rows) {
  return WholeLines(size_t{1} * PaddedRows(n_rows) * (PaddedDim(head_dim) + 2));
}

StateRows StateAt(float* memory, int head_dim, int n_rows) {
  const size_t rows = PaddedRows(n_rows);
  float* after = memory + rows * PaddedDim(head_dim);
  return {.max = after, .sum = after + rows, .vectors = memory};
}

SoftmaxState<float> RowOf(const StateRows& state, int head_dim, int row) {
  return {state.max[row], state.sum[row], state.vectors + size_t{1} * row * PaddedDim(head_dim)};
}

}  // namespace

struct AttentionPlan::Impl {
  Impl(const AttentionShape& s, int threads)
      : shape(s), group(s.n_heads / s.n_kv_heads), max_threads(threads) {}

  AttentionShape shape;
  int group;
  int max_threads;

  // Of what was prepared.
  int n_tokens = 0;  // of a sequence
  int n_sequences = 0;
  int query_block = 0;
  int parts_per_thread = 0;
  int n_rows = 0;  // of a query block
  bool decode = true;
  const Kernels* kernels = nullptr;

  size_t thread_floats = 0;     // scratch and two states
  AlignedFloats thread_memory;  // [max_threads, thread_floats]
  size_t state_floats = 0;
  AlignedFloats partial_memory;  // [parts, 2, state_floats]
  std::vector<Cut> cuts;         // [max_threads, parts + 1]

  // All zero between runs; whoever finishes last sees to it.
  std::vector<std::atomic<int>> finished;  // [tasks], parts done of tasks that were cut
  std::atomic<int> next_part{0};
  std::atomic<int> n_left{0};  // threads that found nothing more to do

  int max_parts() const { return max_threads * parts_per_thread; }
  StateRows PartialState(int part, const BlockRange& range) const;
  void RunPart(const float* q, std::span<const HeadView> heads, float* out, int thread,
               const Schedule& schedule, std::span<const Cut> part_cuts, int part);
  // The queries of a task against a range of its blocks, which begin in tier 0. Uses scratch and
  // the second state of the thread.
  void RunBlocks(const float* q, const HeadView& head, const Task& task, const BlockRange& range,
                 float* scratch, const StateRows& state) const;
  StateRows MergePartials(int task, int64_t n_blocks, int task_rows,
                          std::span<const Cut> part_cuts) const;
  // `into` becomes the states of the entries of both.
  void MergeRows(const StateRows& into, const StateRows& from, int task_rows) const;
  // Where the first query of a task is, in q and out, in rows of head_dim.
  int64_t FirstRow(const Task& task) const;
  void WriteOutput(const Task& task, const StateRows& state, float* out) const;
};

void CheckAttentionShape(const AttentionShape& shape, int max_threads) {
  if (shape.head_dim <= 0 || shape.head_dim % 8 != 0 || shape.head_dim > 256) {
    Fail(ErrorCode::kInvalidArgument,
         "The attention head dimension is {}; expected a multiple of 8 up to 256.", shape.head_dim);
  }
  if (shape.n_kv_heads <= 0 || shape.n_heads <= 0 || shape.n_heads % shape.n_kv_heads != 0) {
    Fail(ErrorCode::kInvalidArgument,
         "There are {} query heads and {} KV heads; expected a multiple of the KV heads.",
         shape.n_heads, shape.n_kv_heads);
  }
  if (max_threads <= 0) {
    Fail(ErrorCode::kInvalidArgument, "Attention was given {} threads; expected at least 1.",
         max_threads);
  }
}

AttentionPlan::AttentionPlan(const AttentionShape& shape, int max_threads) {
  CheckAttentionShape(shape, max_threads);
  impl_ = std::make_unique<Impl>(shape, max_threads);
  Prepare(1);
}

AttentionPlan::~AttentionPlan() = default;

void AttentionPlan::Prepare(int n_tokens, int n_sequences) {
  if (n_tokens <= 0 || n_sequences <= 0) {
    Fail(ErrorCode::kInvalidArgument,
         "Attention was given {} queries in {} sequences; expected at least 1.", n_tokens,
         n_sequences);
  }
  Impl& p = *impl_;
  const Kernels& kernels = CurrentKernels();
  if (n_tokens == p.n_tokens && n_sequences == p.n_sequences && &kernels == p.kernels) return;
  p.n_tokens = 0;  // nothing is prepared if an allocation below fails
  p.kernels = &kernels;
  p.decode = n_tokens * p.group <= p.kernels->decode_max_rows;
  p.query_block = p.decode ? n_tokens : std::min(n_tokens, std::max(1, kPrefillRows / p.group));
  p.n_rows = p.query_block * p.group;
  p.parts_per_thread = p.decode ? 1 : kPrefillPartsPerThread;

  const int head_dim = p.shape.head_dim;
  p.state_floats = StateFloats(head_dim, p.n_rows);
  p.thread_floats = WholeLines(ScratchFloats(head_dim, p.n_rows)) + 2 * p.state_floats;
  p.thread_memory = AllocateFloats(p.max_threads * p.thread_floats);
  p.partial_memory = AllocateFloats(2 * p.state_floats * p.max_parts());
  p.cuts.assign(size_t{1} * p.max_threads * (p.max_parts() + 1), Cut{});
  const int n_query_blocks = (n_tokens + p.query_block - 1) / p.query_block;
  p.finished =
      std::vector<std::atomic<int>>(size_t{1} * n_query_blocks * n_sequences * p.shape.n_kv_heads);
  p.n_sequences = n_sequences;
  p.n_tokens = n_tokens;
}

void AttentionPlan::Run(const float* q, std::span<const HeadView> heads, float* out, int thread,
                        int n_threads) {
  Impl& p = *impl_;
  const Schedule schedule(heads, p.n_tokens, p.query_block, p.decode);
  const int n_parts = n_threads * p.parts_per_thread;
  const std::span<Cut> cuts(p.cuts.data() + size_t{1} * thread * (p.max_parts() + 1), n_parts + 1);
  schedule.MakeCuts(cuts);
  for (;;) {
    const int part = p.next_part.fetch_add(1, std::memory_order_relaxed);
    if (part >= n_parts) break;
    p.RunPart(q, heads, out, thread, schedule, cuts, part);
  }
  // A thread that comes late must still find nothing left, so only the last to leave resets.
  if (p.n_left.fetch_add(1, std::memory_order_acq_rel) + 1 == n_threads) {
    p.next_part.store(0, std::memory_order_relaxed);
    p.n_left.store(0, std::memory_order_relaxed);
  }
}

// A part is cut off at most two tasks: the one it begins inside of, and the one it ends inside of.
StateRows AttentionPlan::Impl::PartialState(int part, const BlockRange& range) const {
  const int slot = 2 * part + (range.begin == 0 ? 1 : 0);
  return StateAt(partial_memory.get() + slot * state_floats, shape.head_dim, n_rows);
}

void AttentionPlan::Impl::RunPart(const float* q, std::span<const HeadView> heads, float* out,
                                  int thread, const Schedule& schedule,
                                  std::span<const Cut> part_cuts, int part) {
  float* scratch = thread_memory.get() + thread * thread_floats;
  float* own_state = scratch + WholeLines(ScratchFloats(shape.head_dim, n_rows));
  const Cut& begin = part_cuts[part];
  const Cut& end = part_cuts[part + 1];

  for (int index = begin.task; index <= std::min(end.task, schedule.n_tasks() - 1); ++index) {
    const Task task = schedule.task(index);
    const int64_t n_blocks = task.all_blocks();
    const BlockRange range = PartOfTask(begin, end, index, n_blocks);
    if (range.begin >= range.end) continue;
    const bool whole = range.begin == 0 && range.end == n_blocks;
    StateRows state =
        whole ? StateAt(own_state, shape.head_dim, n_rows) : PartialState(part, range);
    RunBlocks(q, heads[task.head], task, range, scratch, state);

    if (!whole) {
      int n_pieces = 0;
      for (size_t i = 0; i + 1 < part_cuts.size(); ++i) {
        const BlockRange piece = PartOfTask(part_cuts[i], part_cuts[i + 1], index, n_blocks);
        n_pieces += piece.begin < piece.end ? 1 : 0;
      }
      if (finished[index].fetch_add(1, std::memory_order_acq_rel) + 1 < n_pieces) continue;
      finished[index].store(0, std::memory_order_relaxed);
      state = MergePartials(index, n_blocks, task.n_tokens * group, part_cuts);
    }
    WriteOutput(task, state, out);
  }
}

// Of tier 0 only the last entries are hidden from some queries: everything in the others was there
// before the chunk.
void AttentionPlan::Impl::RunBlocks(const float* q, const HeadView& head, const Task& task,
                                    const BlockRange& range, float* scratch,
                                    const StateRows& state) const {
  const StateRows tier_state =
      StateAt(scratch + WholeLines(ScratchFloats(shape.head_dim, n_rows)) + state_floats,
              shape.head_dim, n_rows);
  bool any = false;
  int64_t first_block = 0;  // of the tier
  for (int t = 0; t < head.n_tiers; first_block += task.n_blocks[t], ++t) {
    const int64_t begin = std::max<int64_t>(range.begin - first_block, 0);
    const int64_t end = std::min(range.end - first_block, task.n_blocks[t]);
    if (begin >= end) continue;
    const TierView& tier = head.tiers[t];
    const bool causal = t == 0 && head.n_chunk > 0;
    const Segment segment = {
        .pages = tier.pages,
        .key_bytes = tier.key_bytes,
        .page_bytes = tier.page_bytes,
        .keys = tier.keys,
        .values = tier.values,
        .begin = begin * kBlockEntries,
        .end = std::min(end * kBlockEntries, task.n_entries[t]),
        .head_dim = shape.head_dim,
        .group = group,
        .n_tokens = task.n_tokens,
        .q = q + FirstRow(task) * shape.head_dim,
        .q_stride = int64_t{shape.n_heads} * shape.head_dim,
        .scale = shape.scale * 1.44269504f,  // log2(e)
        .first_visible = causal ? task.n_entries[t] - task.n_tokens + 1 : task.n_entries[t],
        .visible_step = causal ? 1 : 0,
        .scratch = scratch,
        .state = any ? tier_state : state,
    };
    (decode ? kernels->decode : kernels->prefill)(segment);
    if (any) MergeRows(state, tier_state, task.n_tokens * group);
    any = true;
  }
}

// In the order of parts, whoever finished last: the same threads give the same bits.
StateRows AttentionPlan::Impl::MergePartials(int task, int64_t n_blocks, int task_rows,
                                             std::span<const Cut> part_cuts) const {
  StateRows merged = {};
  for (int part = 0; part + 1 < static_cast<int>(part_cuts.size()); ++part) {
    const BlockRange range = PartOfTask(part_cuts[part], part_cuts[part + 1], task, n_blocks);
    if (range.begin >= range.end) continue;
    const StateRows state = PartialState(part, range);
    if (merged.vectors == nullptr) {
      merged = state;
    } else {
      MergeRows(merged, state, task_rows);
    }
  }
  return merged;
}

void AttentionPlan::Impl::MergeRows(const StateRows& into, const StateRows& from,
                                    int task_rows) const {
  for (int row = 0; row < task_rows; ++row) {
    SoftmaxState<float> both = RowOf(into, shape.head_dim, row);
    MergeState(both, RowOf(from, shape.head_dim, row), shape.head_dim);
    into.max[row] = both.max;
    into.sum[row] = both.sum;
  }
}

int64_t AttentionPlan::Impl::FirstRow(const Task& task) const {
  const int sequence = task.head / shape.n_kv_heads;
  const int kv_head = task.head % shape.n_kv_heads;
  return (int64_t{sequence} * n_tokens + task.token_begin) * shape.n_heads + kv_head * group;
}

void AttentionPlan::Impl::WriteOutput(const Task& task, const StateRows& state, float* out) const {
  const int64_t first_row = FirstRow(task);
  for (int token = 0; token < task.n_tokens; ++token) {
    for (int h = 0; h < group; ++h) {
      const int64_t row = first_row + int64_t{token} * shape.n_heads + h;
      NormaliseState(RowOf(state, shape.head_dim, token * group + h), shape.head_dim,
                     out + row * shape.head_dim);
    }
  }
}

}  // namespace pith
