#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <thread>

#include "base/fail.h"
#include "calibrate/kvzap_train.h"
#include "calibrate/metadata_keys.h"
#include "engine/harvest.h"

namespace pith {
namespace {

void Check(const KvzapOptions& options, const ModelInfo& info) {
  if (options.n_threads < 0 || options.n_threads > 512) {
    Fail(ErrorCode::kInvalidArgument,
         "{} threads make no sense, use 1 to 512, or 0 for one per core", options.n_threads);
  }
  // The repeat follows the prompt, with its instruction.
  if (int64_t{options.max_tokens} * 2 + 64 > info.n_ctx_train) {
    Fail(ErrorCode::kInvalidArgument,
         "prompts of {} tokens, read twice, do not fit into the model's context of {}",
         options.max_tokens, info.n_ctx_train);
  }
  if (options.work_folder.empty()) {
    Fail(ErrorCode::kInvalidArgument, "a folder for the samples is needed");
  }
}

void Describe(const KvzapOptions& options, const KvzapSplits& splits, const KvzapFit& fit,
              const KvzapQuality& quality, std::map<std::string, std::string>& metadata) {
  metadata[kKvzapFormKey] = options.mlp ? "mlp" : "linear";
  metadata[kKvzapSeedKey] = fmt::format("{}", options.seed);
  metadata[kKvzapPromptsKey] = fmt::format("{} {} {}", splits.train.size(),
                                           splits.validation.size(), splits.held_out.size());
  metadata[kKvzapPositionsKey] = fmt::format("{}", options.n_positions);
  metadata.erase(kKvzapPenaltyKey);
  if (!options.mlp) metadata[kKvzapPenaltyKey] = fmt::format("{:g}", fit.penalty);
  metadata[kKvzapR2Key] = fmt::format("{:.3f}", quality.mean_r2);
  std::string heads;
  for (const float r2 : quality.r2) heads += fmt::format("{}{:.3f}", heads.empty() ? "" : " ", r2);
  metadata[kKvzapR2HeadsKey] = heads;
}

}  // namespace

KvzapQuality CalibrateKvzap(const Model& model, std::span<const std::string> texts,
                            const KvzapOptions& options, Calibration& calibration,
                            const KvzapProgress& progress) {
  const ModelInfo& info = model.info();
  Check(options, info);
  if (!calibration.q_filters.empty()) calibration.CheckFits(info);
  const std::vector<HarvestPrompt> prompts =
      MakeHarvestPrompts(model.tokenizer(), texts, options, HarvestPlan().sinks);
  const KvzapSplits splits = Harvest(model, prompts, options, progress.harvest);
  KvzapTraining training;
  training.epochs = options.epochs;
  training.seed = options.seed;
  training.n_threads = options.n_threads > 0
                           ? options.n_threads
                           : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const KvzapShape shape{info.n_layers, info.n_embd, info.n_kv_heads};
  KvzapFit fit = options.mlp ? FitKvzapMlp(shape, splits, training, progress.train)
                             : FitKvzapLinear(shape, splits, training, progress.train);
  KvzapQuality quality;
  quality.r2 = std::move(fit.r2);
  quality.mean_r2 = std::accumulate(quality.r2.begin(), quality.r2.end(), 0.0) /
                    static_cast<double>(quality.r2.size());
  calibration.n_layers = info.n_layers;
  calibration.n_kv_heads = info.n_kv_heads;
  calibration.metadata[kModelKey] = info.name;
  calibration.metadata[kFingerprintKey] = info.fingerprint;
  Describe(options, splits, fit, quality, calibration.metadata);
  calibration.kvzap = std::move(fit.surrogate);
  return quality;
}

}  // namespace pith
