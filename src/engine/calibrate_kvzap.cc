#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <thread>

#include "base/fail.h"
#include "calibrate/kvzap_plus_train.h"
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

std::string PromptCounts(const KvzapSplits& splits) {
  return fmt::format("{} {} {}", splits.train.size(), splits.validation.size(),
                     splits.held_out.size());
}

void Describe(const KvzapOptions& options, const KvzapSplits& splits, const KvzapFit& fit,
              const KvzapQuality& quality, std::map<std::string, std::string>& metadata) {
  metadata[kKvzapFormKey] = options.mlp ? "mlp" : "linear";
  metadata[kKvzapSeedKey] = fmt::format("{}", options.seed);
  metadata[kKvzapPromptsKey] = PromptCounts(splits);
  metadata[kKvzapPositionsKey] = fmt::format("{}", options.n_positions);
  metadata.erase(kKvzapPenaltyKey);
  if (!options.mlp) metadata[kKvzapPenaltyKey] = fmt::format("{:g}", fit.penalty);
  metadata[kKvzapR2Key] = fmt::format("{:.3f}", quality.mean_r2);
  std::string heads;
  for (const float r2 : quality.r2) heads += fmt::format("{}{:.3f}", heads.empty() ? "" : " ", r2);
  metadata[kKvzapR2HeadsKey] = heads;
}

double Mean(std::span<const float> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

KvzapQuality TrainPlus(const KvzapShape& shape, const KvzapSplits& splits,
                       const KvzapOptions& options, const KvzapTraining& training,
                       Calibration& calibration, const Progress& progress) {
  KvzapPlusFit fit = FitKvzapPlus(shape, splits, calibration.q_filters, training, progress);
  KvzapQuality quality;
  const size_t half = fit.r2.size() / 2;
  quality.r2.assign(fit.r2.begin(), fit.r2.begin() + static_cast<int64_t>(half));
  quality.received_r2.assign(fit.r2.begin() + static_cast<int64_t>(half), fit.r2.end());
  quality.mean_r2 = Mean(quality.r2);
  quality.mean_received_r2 = Mean(quality.received_r2);
  auto& metadata = calibration.metadata;
  metadata[kKvzapPlusSeedKey] = fmt::format("{}", options.seed);
  metadata[kKvzapPlusPromptsKey] = PromptCounts(splits);
  metadata[kKvzapPlusPositionsKey] = fmt::format("{}", options.n_positions);
  metadata[kKvzapPlusPenaltyKey] = fmt::format("{:g}", fit.penalty);
  metadata[kKvzapPlusR2Key] =
      fmt::format("{:.3f} {:.3f}", quality.mean_r2, quality.mean_received_r2);
  calibration.kvzap_plus = std::move(fit.surrogate);
  return quality;
}

}  // namespace

KvzapQuality CalibrateKvzap(const Model& model, std::span<const std::string> texts,
                            const KvzapOptions& options, Calibration& calibration,
                            const KvzapProgress& progress) {
  const ModelInfo& info = model.info();
  Check(options, info);
  if (!calibration.q_filters.empty()) calibration.CheckFits(info);
  if (options.plus && calibration.q_filters.empty()) {
    Fail(ErrorCode::kInvalidArgument,
         "kvzap+ sees keys through the model's Q-Filters, but the calibration has none; \"pith "
         "calibrate -m MODEL -o X.pithcal\" makes them");
  }
  const std::vector<HarvestPrompt> prompts =
      MakeHarvestPrompts(model.tokenizer(), texts, options, HarvestPlan().sinks);
  const KvzapSplits splits = Harvest(model, prompts, options, progress.harvest);
  KvzapTraining training;
  training.epochs = options.epochs;
  training.seed = options.seed;
  training.n_threads = options.n_threads > 0
                           ? options.n_threads
                           : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const KvzapShape shape{info.n_layers, info.n_embd, info.n_kv_heads, info.head_dim};
  calibration.metadata[kModelKey] = info.name;
  calibration.metadata[kFingerprintKey] = info.fingerprint;
  if (options.plus) {
    return TrainPlus(shape, splits, options, training, calibration, progress.train);
  }
  KvzapFit fit = options.mlp ? FitKvzapMlp(shape, splits, training, progress.train)
                             : FitKvzapLinear(shape, splits, training, progress.train);
  KvzapQuality quality;
  quality.r2 = std::move(fit.r2);
  quality.mean_r2 = Mean(quality.r2);
  calibration.n_layers = info.n_layers;
  calibration.n_kv_heads = info.n_kv_heads;
  Describe(options, splits, fit, quality, calibration.metadata);
  calibration.kvzap = std::move(fit.surrogate);
  return quality;
}

}  // namespace pith
