#include "engine/query_memory.h"

#include <algorithm>

#include "model/model_impl.h"

namespace pith {
namespace {

// Adding one token to the moments costs as much memory traffic as adding many.
constexpr int kRun = 32;

// Queries that moments must be made of, where as many tokens were read, for the session to prefer
// them to worths that were found with more.
constexpr int64_t kEnoughMoments = 64;

}  // namespace

QueryMemory::QueryMemory(const Model& model, int first_layer, int n_sinks, const Needs& needs)
    : model_(model),
      first_layer_(first_layer),
      n_sinks_(n_sinks),
      n_heads_(model.info().n_heads),
      head_dim_(static_cast<size_t>(model.info().head_dim)),
      n_recent_(needs.recent_queries),
      keeps_moments_(needs.query_moments),
      layers_(static_cast<size_t>(model.info().n_layers - first_layer)),
      positions_(static_cast<size_t>(n_recent_), -1) {
  for (Layer& layer : layers_) {
    layer.recent.resize(n_recent_ * row_size());
    layer.coming.resize(n_recent_ * row_size());
    if (!keeps_moments_) continue;
    layer.moments.assign(static_cast<size_t>(n_heads_), QueryMoments(head_dim_));
    layer.added = layer.moments;
    layer.run.resize(kRun * row_size());
  }
}

bool QueryMemory::IsAskedFor(const Needs& needs) {
  return needs.recent_queries > 0 || needs.query_moments;
}

int64_t QueryMemory::FirstRecent() const {
  return std::max(begin_, begin_ + n_tokens_ - n_recent_);
}

void QueryMemory::Begin(int64_t first_position, int n_tokens) {
  begin_ = first_position;
  n_tokens_ = n_tokens;
  rotations_.clear();
  if (!keeps_moments_) return;
  for (int t = 0; t < n_tokens; ++t) {
    rotations_.push_back(model_.impl().rope->At(first_position + t));
  }
}

void QueryMemory::Observe(int layer_index, const float* q, int thread, int n_threads) {
  if (layer_index < first_layer_) return;
  Layer& layer = layers_[static_cast<size_t>(layer_index - first_layer_)];
  const auto sinks =
      static_cast<size_t>(std::clamp<int64_t>(n_sinks_ - begin_, 0, n_tokens_));  // of the chunk
  const auto n = static_cast<size_t>(n_tokens_);
  std::vector<float> rows;
  for (int head = thread; head < n_heads_; head += n_threads) {
    const size_t at = static_cast<size_t>(head) * head_dim_;
    for (int64_t position = FirstRecent(); position < begin_ + n_tokens_; ++position) {
      std::copy_n(q + static_cast<size_t>(position - begin_) * row_size() + at, head_dim_,
                  layer.coming.data() + SlotOf(position) * row_size() + at);
    }
    if (!keeps_moments_ || sinks == n) continue;
    rows.resize((n - sinks) * head_dim_);
    for (size_t t = sinks; t < n; ++t) {
      float* row = rows.data() + (t - sinks) * head_dim_;
      std::copy_n(q + t * row_size() + at, head_dim_, row);
      rotations_[t].TurnBack(row);
    }
    if (n == 1) {
      std::copy(rows.begin(), rows.end(),
                layer.run.begin() + (head * kRun + n_run_) * static_cast<ptrdiff_t>(head_dim_));
    } else {
      QueryMoments& added = layer.added[static_cast<size_t>(head)];
      added.Clear();
      added.Add({rows.data(), n - sinks, head_dim_, head_dim_});
    }
  }
}

void QueryMemory::Commit() {
  for (int64_t position = FirstRecent(); position < begin_ + n_tokens_; ++position) {
    const size_t slot = SlotOf(position);
    positions_[slot] = static_cast<int32_t>(position);
    for (Layer& layer : layers_) {
      std::copy_n(layer.coming.data() + slot * row_size(), row_size(),
                  layer.recent.data() + slot * row_size());
    }
  }
  const int64_t n_counted = std::min<int64_t>(n_tokens_, begin_ + n_tokens_ - n_sinks_);
  if (!keeps_moments_ || n_counted <= 0) return;
  n_moments_ += n_counted;
  if (n_tokens_ == 1 && ++n_run_ < kRun) return;
  for (Layer& layer : layers_) {
    for (size_t head = 0; head < layer.moments.size(); ++head) {
      if (n_tokens_ == 1) {
        layer.moments[head].Add(
            {layer.run.data() + head * kRun * head_dim_, kRun, head_dim_, head_dim_});
      } else {
        layer.moments[head].Add(layer.added[head]);
      }
    }
  }
  if (n_tokens_ == 1) n_run_ = 0;
}

void QueryMemory::DropFrom(int64_t position) {
  for (int32_t& recent : positions_) {
    if (recent >= position) recent = -1;
  }
  if (position > n_sinks_) return;
  n_moments_ = 0;
  n_run_ = 0;
  for (Layer& layer : layers_) {
    for (QueryMoments& moments : layer.moments) moments.Clear();
  }
}

void QueryMemory::Take(const QueryMemory& other) {
  for (const int32_t position : other.RecentPositions(n_recent_)) {
    const size_t slot = SlotOf(position);
    positions_[slot] = position;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const std::span<const float> row = other.Recent(first_layer_ + static_cast<int>(i), position);
      std::copy(row.begin(), row.end(),
                layers_[i].recent.begin() + static_cast<ptrdiff_t>(slot * row_size()));
    }
  }
  if (!keeps_moments_ || !other.keeps_moments_) return;
  n_moments_ = other.n_moments_;
  n_run_ = other.n_run_;
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].moments = other.layers_[i].moments;
    layers_[i].run = other.layers_[i].run;
  }
}

bool QueryMemory::Suffices(const Needs& needs, int64_t n_read) const {
  const int64_t wanted = std::min<int64_t>(needs.recent_queries, n_read);
  if (std::ssize(RecentPositions(needs.recent_queries)) < wanted) return false;
  if (!needs.query_moments) return true;
  const int64_t n_folded = n_moments_ - n_run_;
  return n_folded > 0 && n_moments_ >= std::min(kEnoughMoments, n_read - n_sinks_);
}

std::vector<int32_t> QueryMemory::RecentPositions(int n) const {
  std::vector<int32_t> positions;
  for (const int32_t position : positions_) {
    if (position >= 0) positions.push_back(position);
  }
  std::sort(positions.begin(), positions.end());
  if (std::ssize(positions) > n) positions.erase(positions.begin(), positions.end() - n);
  return positions;
}

std::span<const float> QueryMemory::Recent(int layer, int32_t position) const {
  return std::span(layers_[static_cast<size_t>(layer - first_layer_)].recent)
      .subspan(SlotOf(position) * row_size(), row_size());
}

std::span<const QueryMoments> QueryMemory::Moments(int layer) const {
  return layers_[static_cast<size_t>(layer - first_layer_)].moments;
}

}  // namespace pith
