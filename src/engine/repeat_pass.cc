#include "engine/repeat_pass.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/fail.h"
#include "model/model_impl.h"

namespace pith {
namespace {

// The published prompts, and how much of what came before stands at the end of the second one.
constexpr const char* kRepeatFirst = "\n\nRepeat the previous context exactly.";
constexpr const char* kRepeatNext =
    "\n\nRepeat the part of the previous context exactly, starting with";
constexpr int64_t kReminderTokens = 8;

// Entries whose values are multiplied at once.
constexpr size_t kNormRows = 256;

AttentionShape ShapeOf(const ModelInfo& info) {
  return {info.head_dim, info.n_heads, info.n_kv_heads,
          1.0f / std::sqrt(static_cast<float>(info.head_dim))};
}

}  // namespace

std::vector<Token> RepeatPrompt(const Tokenizer& tokenizer, std::span<const Token> text,
                                int64_t begin, int64_t end, bool is_first) {
  std::vector<Token> prompt = tokenizer.Encode(is_first ? kRepeatFirst : kRepeatNext);
  const auto add = [&](int64_t from, int64_t to) {
    prompt.insert(prompt.end(), text.begin() + from, text.begin() + to);
  };
  if (!is_first) add(std::max<int64_t>(0, begin - kReminderTokens), begin);
  add(begin, end);
  return prompt;
}

int64_t RepeatPromptTokens(const Tokenizer& tokenizer, int64_t begin, int64_t end, bool is_first) {
  const size_t instruction = tokenizer.Encode(is_first ? kRepeatFirst : kRepeatNext).size();
  const int64_t reminder = is_first ? 0 : std::min(begin, kReminderTokens);
  return static_cast<int64_t>(instruction) + reminder + end - begin;
}

RepeatPass::RepeatPass(const Model& model, Needs needs, const Cache& cache, int first_layer,
                       int n_sinks, int64_t begin, int64_t end, int64_t n_read, int n_threads)
    : model_(model),
      info_(model_.info()),
      needs_(needs),
      cache_(cache),
      first_layer_(first_layer),
      n_judged_(end - begin),
      n_after_(n_read - end),
      kernel_(ShapeOf(info_), n_threads),
      heads_(size_t{1} * (info_.n_layers - first_layer) * info_.n_kv_heads),
      log2_max_(size_t{1} * (info_.n_layers - first_layer) * info_.n_heads * n_judged_,
                -std::numeric_limits<float>::infinity()),
      threads_(static_cast<size_t>(n_threads)) {
  if (needs_.output_norms) output_norms_.resize(log2_max_.size());
  const size_t head_dim = static_cast<size_t>(info_.head_dim);
  std::vector<float> value(head_dim);
  for (int layer = first_layer; layer < info_.n_layers; ++layer) {
    // Prepared here, where it may throw; in the graph it must not.
    if (needs_.output_norms) model_.impl().output_norms->Norms(layer, 0, {}, {});
    for (int h = 0; h < info_.n_kv_heads; ++h) {
      Head& head = heads_[size_t{1} * (layer - first_layer) * info_.n_kv_heads + h];
      const std::span<const int32_t> positions = cache.Entries(layer, h).positions;
      head.first = static_cast<int64_t>(positions.size()) - (n_read - begin);
      if (head.first < 0 || positions[head.first] != begin ||
          positions[head.first + n_judged_ - 1] != end - 1) {
        Fail(ErrorCode::kInvalidArgument,
             "tokens {} to {} cannot be judged: some of their entries are gone", begin, end - 1);
      }
      for (int64_t i = 0; i < head.first; ++i) {
        if (positions[i] >= n_sinks) continue;
        head.sinks.resize(head.sinks.size() + head_dim);
        cache.Read(layer, h, i, head.sinks.data() + head.sinks.size() - head_dim, value.data());
      }
    }
  }
}

void RepeatPass::Prepare(int n_tokens) {
  is_first_ = n_tokens_ == 0;
  n_tokens_ = n_tokens;
  kernel_.Prepare(n_tokens, n_judged_);
}

void RepeatPass::Observe(int layer, const float* q, const float* hidden, int thread,
                         int n_threads) {
  if (layer < first_layer_) return;
  ThreadState& state = threads_[thread];
  state.heads.resize(info_.n_kv_heads);
  const std::span<const HeadView> views = cache_.Views(layer);
  const size_t head_dim = static_cast<size_t>(info_.head_dim);
  for (int h = 0; h < info_.n_kv_heads; ++h) {
    const Head& head = HeadOf(layer, h);
    const int64_t end = head.first + n_judged_;
    state.heads[h] = {views[h],
                      head.first,
                      end,
                      end + n_after_,
                      {head.sinks.data(), head.sinks.size() / head_dim, head_dim, head_dim}};
  }
  state.log2_hidden.clear();
  if (needs_.output_norms) {
    if (is_first_) MeasureOutputs(layer, thread, n_threads);
    for (int t = 0; t < n_tokens_; ++t) {
      const Eigen::Map<const Eigen::VectorXf> row(hidden + size_t{1} * t * info_.n_embd,
                                                  info_.n_embd);
      state.log2_hidden.push_back(std::log2(row.norm()));
    }
  }
  kernel_.Run(q, state.heads, state.log2_hidden, Maxima(layer), thread, n_threads);
}

void RepeatPass::MeasureOutputs(int layer, int thread, int n_threads) {
  ThreadState& state = threads_[thread];
  const size_t head_dim = static_cast<size_t>(info_.head_dim);
  const int group = info_.n_heads / info_.n_kv_heads;
  state.values.resize(kNormRows * head_dim);
  state.key.resize(head_dim);
  const int64_t end = n_judged_ * (thread + 1) / n_threads;
  for (int64_t begin = n_judged_ * thread / n_threads; begin < end; begin += kNormRows) {
    const size_t n = std::min(kNormRows, static_cast<size_t>(end - begin));
    for (int h = 0; h < info_.n_kv_heads; ++h) {
      for (size_t i = 0; i < n; ++i) {
        cache_.Read(layer, h, HeadOf(layer, h).first + begin + static_cast<int64_t>(i),
                    state.key.data(), state.values.data() + i * head_dim);
      }
      for (int head = h * group; head < (h + 1) * group; ++head) {
        float* norms = output_norms_.data() + (Maxima(layer) - log2_max_.data()) +
                       size_t{1} * head * n_judged_ + begin;
        model_.impl().output_norms->Norms(layer, head, {state.values.data(), n, head_dim, head_dim},
                                          {norms, n});
      }
    }
  }
}

void RepeatPass::Judge(const Scorer& scorer, const Sink& sink) const {
  const int group = info_.n_heads / info_.n_kv_heads;
  const size_t n = size_t{1} * group * n_judged_;
  std::vector<float> worth(static_cast<size_t>(n_judged_));
  size_t offset = 0;
  for (int layer = first_layer_; layer < info_.n_layers; ++layer) {
    for (int h = 0; h < info_.n_kv_heads; ++h, offset += n) {
      RepeatEvidence evidence;
      evidence.n_entries = static_cast<int>(n_judged_);
      evidence.group = group;
      evidence.log2_probability = std::span(log2_max_).subspan(offset, n);
      if (needs_.output_norms) {
        evidence.output_norm = std::span(output_norms_).subspan(offset, n);
      }
      scorer.JudgeRepeat(evidence, worth);
      sink(layer, h, HeadOf(layer, h).first, worth);
    }
  }
}

}  // namespace pith
