#include "engine/calibrate_curves.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/fail.h"
#include "calibrate/keep_curves.h"
#include "calibrate/kvzap_layers.h"
#include "engine/session_impl.h"
#include "model/model_impl.h"
#include "scorers/scorer.h"

namespace pith {
namespace {

// Tokens that follow the context and ask, and as many before them in its window: enough of both,
// and most of the sequence is left to choose from.
int AskingTokens(size_t n_tokens) { return std::min<int>(128, static_cast<int>(n_tokens / 8)); }

// Reads one sequence after the other and adds up the losses of all heads.
class CurveMeter {
 public:
  CurveMeter(const Model& model, std::shared_ptr<const Calibration> calibration, int n_threads)
      : model_(model), info_(model.info()), n_threads_(n_threads) {
    plan_.scorer = "expected_calibrated";
    plan_.calibration = std::move(calibration);
    plan_.keep.kind = Keep::Kind::kFraction;
    order_ = MakeScorer(plan_, info_);
    losses_.resize(size_t{KeepCurves::kPoints} * info_.n_layers * info_.n_kv_heads);
    outputs_.resize(static_cast<size_t>(info_.n_layers));
  }

  void Add(std::span<const Token> tokens, const Progress& progress) {
    const int n_asking = AskingTokens(tokens.size());
    const auto n_context = static_cast<int64_t>(tokens.size()) - n_asking;
    const size_t row = size_t{1} * info_.n_heads * info_.head_dim;
    std::vector<std::vector<float>> queries(static_cast<size_t>(info_.n_layers));
    Session session(model_, {}, {.n_threads = n_threads_});
    session.impl().SetQueryTap([&](int layer, int32_t first, int n, const float* q) {
      const auto skipped = static_cast<size_t>(std::clamp<int64_t>(n_context - first, 0, n));
      std::vector<float>& all = queries[static_cast<size_t>(layer)];
      all.insert(all.end(), q + skipped * row, q + static_cast<size_t>(n) * row);
    });
    ReadOptions read;
    read.progress = progress;
    session.Read(tokens, read);
    const Cache& cache = session.impl().cache;
    LayerEvidence evidence;
    evidence.group = info_.n_heads / info_.n_kv_heads;
    evidence.n_sinks = plan_.sinks;
    evidence.window_begin = static_cast<int32_t>(n_context - n_asking);
    evidence.future = model_.impl().rope->Mean(n_context, order_->needs().future_positions);
    ForEachLayer(info_.n_layers, n_threads_, {}, [&](int layer) {
      AddLayer(layer, cache, n_context, evidence, queries[static_cast<size_t>(layer)]);
    });
  }

  KeepCurves Curves() const {
    KeepCurves curves{info_.n_layers, info_.n_kv_heads, {}};
    const size_t per_layer = losses_.size() / outputs_.size();
    for (size_t i = 0; i < losses_.size(); ++i) {
      const auto loss = static_cast<float>(losses_[i] / outputs_[i / per_layer]);
      if (!std::isfinite(loss)) {
        Fail(ErrorCode::kInvalidArgument, "what the heads of layer {} write is not finite numbers",
             i / per_layer);
      }
      curves.loss.push_back(loss);
    }
    return curves;
  }

 private:
  void AddLayer(int layer, const Cache& cache, int64_t n_context, LayerEvidence evidence,
                std::span<const float> queries) {
    const auto n_tokens = static_cast<size_t>(cache.n_entries(layer, 0));
    const auto head_dim = static_cast<size_t>(info_.head_dim);
    const auto n_kv_heads = static_cast<size_t>(info_.n_kv_heads);
    const size_t size = n_tokens * head_dim;
    std::vector<float> keys(n_kv_heads * size), values(n_kv_heads * size);
    std::vector<int32_t> positions(n_tokens);
    std::iota(positions.begin(), positions.end(), 0);
    std::vector<float> worths(n_kv_heads * static_cast<size_t>(n_context));
    std::vector<Entries> heads;
    std::vector<std::span<float>> worth;
    for (size_t h = 0; h < n_kv_heads; ++h) {
      const int kv_head = static_cast<int>(h);
      const HeadEntries held = cache.Entries(layer, kv_head);
      for (size_t i = 0; i < n_tokens; ++i) {
        const size_t at = h * size + static_cast<size_t>(held.positions[i]) * head_dim;
        cache.Read(layer, kv_head, static_cast<int64_t>(i), keys.data() + at, values.data() + at);
      }
      const auto n = static_cast<size_t>(n_context);
      heads.push_back({layer,
                       kv_head,
                       std::span(positions).first(n),
                       {keys.data() + h * size, n, head_dim, head_dim},
                       {values.data() + h * size, n, head_dim, head_dim}});
      worth.push_back(std::span(worths).subspan(h * n, n));
    }
    evidence.layer = layer;
    evidence.heads = heads;
    order_->JudgeLayer(evidence, worth);
    std::vector<int32_t> order(
        positions.begin() + std::min(evidence.n_sinks, evidence.window_begin),
        positions.begin() + evidence.window_begin);
    for (size_t h = 0; h < n_kv_heads; ++h) {
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return worth[h][static_cast<size_t>(a)] > worth[h][static_cast<size_t>(b)];
      });
      const auto group = static_cast<size_t>(evidence.group);
      const size_t n_asking = n_tokens - static_cast<size_t>(n_context);
      std::vector<float> asked(n_asking * group * head_dim);
      for (size_t i = 0; i < n_asking; ++i) {
        std::copy_n(queries.data() + (i * n_kv_heads + h) * group * head_dim, group * head_dim,
                    asked.data() + i * group * head_dim);
      }
      const HeadText text{{keys.data() + h * size, n_tokens, head_dim, head_dim},
                          {values.data() + h * size, n_tokens, head_dim, head_dim},
                          {asked.data(), n_asking * group, head_dim, head_dim},
                          evidence.group,
                          order};
      AddLossOfKeeping(
          text,
          [&](int g, MatrixView<const float> rows, std::span<float> norms) {
            const int head = static_cast<int>(h) * evidence.group + g;
            model_.impl().output_norms->Norms(layer, head, rows, norms);
          },
          std::span(losses_).subspan(
              (static_cast<size_t>(layer) * n_kv_heads + h) * KeepCurves::kPoints,
              KeepCurves::kPoints),
          outputs_[static_cast<size_t>(layer)]);
    }
  }

  Model model_;
  const ModelInfo& info_;
  int n_threads_;
  Plan plan_;
  std::unique_ptr<Scorer> order_;
  std::vector<double> losses_;   // [n_layers, n_kv_heads, kPoints]
  std::vector<double> outputs_;  // [n_layers]
};

}  // namespace

KeepCurves MeasureKeepCurves(const Model& model, std::span<const std::vector<Token>> sequences,
                             std::shared_ptr<const Calibration> calibration, int n_threads,
                             const Progress& progress) {
  CurveMeter meter(model, std::move(calibration), n_threads);
  int64_t done = 0;
  int64_t total = 0;
  for (const auto& sequence : sequences) total += std::ssize(sequence);
  for (const auto& sequence : sequences) {
    meter.Add(sequence,
              [&](int64_t n_read, int64_t) { return !progress || progress(done + n_read, total); });
    done += std::ssize(sequence);
  }
  return meter.Curves();
}

}  // namespace pith
