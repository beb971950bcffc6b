// One maker for each method; MakeScorer picks by name.
#pragma once

#include <memory>

#include "scorers/scorer.h"

namespace pith {

// Q-Filters (arXiv 2503.02812, section 3): worth = -(filter . key), with the filters of
// `plan.calibration`, stored negated as the published ones are.
// Throws Error(kInvalidArgument) without a calibration, Error(kMismatch) for a foreign one.
std::unique_ptr<Scorer> MakeQFilter(const Plan& plan, const ModelInfo& model);

// qfilter+: keeps, in every head, what expected_calibrated would keep first, and of every head as
// much as it needs: worth = ln of the slope, at the entry's rank, of the loss curve of its KV head,
// which `pith calibrate` has measured. Rank counts all tokens read. See docs/evaluation.md.
// Throws Error(kInvalidArgument) without a calibration that holds curves and the mean of the
// queries, Error(kMismatch) for a foreign one.
std::unique_ptr<Scorer> MakeQFilterPlus(const Plan& plan, const ModelInfo& model);

// Low key norm means high attention (arXiv 2406.11430): worth = -|key|.
std::unique_ptr<Scorer> MakeKnorm(const Plan& plan, const ModelInfo& model);

// Sinks and the most recent entries (StreamingLLM, arXiv 2309.17453): worth = position.
std::unique_ptr<Scorer> MakeStreamingLlm(const Plan& plan, const ModelInfo& model);

// The baseline that every method has to beat: worth uniform in [0, 1), a function of the plan's
// seed, the layer, the KV head and the position alone.
std::unique_ptr<Scorer> MakeRandom(const Plan& plan, const ModelInfo& model);

// KVzip (arXiv 2505.23416, section 3.2): what is needed to repeat the text is needed at all.
//   worth of entry i = ln max over query heads g of the KV head, queries j of the repeat, of a_gji
// where a is the attention probability. Never below the lowest finite float.
std::unique_ptr<Scorer> MakeKvzip(const Plan& plan, const ModelInfo& model);

// KVzip+ (KVzap, arXiv 2601.07891, the oracle that its surrogates are trained on): counts what an
// entry adds to the residual stream against what is there,
//   worth of entry i = ln max over g, j of a_gji |W_O^g v_i| / |h_j|
// where W_O^g are the columns of the output projection that query head g meets, and h_j is the
// hidden state that enters the attention.
std::unique_ptr<Scorer> MakeKvzipPlus(const Plan& plan, const ModelInfo& model);

// KVzap (arXiv 2601.07891, section 3): worth = what a linear map or a small network makes of the
// hidden state that enters the attention, trained to give the natural log of the KVzip+ score.
// Throws Error(kInvalidArgument) without a calibration that holds one, Error(kMismatch) for a
// foreign one.
std::unique_ptr<Scorer> MakeKvzap(const Plan& plan, const ModelInfo& model);

// kvzap+: worth = the larger of two linear maps of the hidden state, the key, ln |key| and ln
// |value|, trained to give ln of the KVzip score and ln of the attention that later queries pay.
// Throws as MakeKvzap does.
std::unique_ptr<Scorer> MakeKvzapPlus(const Plan& plan, const ModelInfo& model);

// The following judge all entries of a layer anew whenever it is decided what stays. The first two
// are normalised over the entries that are left.

// SnapKV (arXiv 2404.14469): worth = the attention that the 64 latest queries pay an
// entry before them on average, also over the group, and over five neighbours.
std::unique_ptr<Scorer> MakeSnapKv(const Plan& plan, const ModelInfo& model);

// TOVA (arXiv 2401.06104): worth = the attention that the last query pays the entry's
// position, averaged over all heads of the layer.
std::unique_ptr<Scorer> MakeTova(const Plan& plan, const ModelInfo& model);

// KeyDiff (arXiv 2504.15364): keys like all others go first, worth = -cos(key, anchor)
// with the mean of all keys, made unit length, as anchor.
std::unique_ptr<Scorer> MakeKeyDiff(const Plan& plan, const ModelInfo& model);

// Expected Attention (arXiv 2510.00636): what queries to come, taken as normal with the
// mean m and covariance C of those so far, turned by RoPE as the next 512 positions are on average,
// will pay:
//   worth = |value| * mean over the group of softmax over entries of (m.k / sqrt d + k.C k / 2d)
// Sinks take no part.
std::unique_ptr<Scorer> MakeExpected(const Plan& plan, const ModelInfo& model);

// The same with the mean and covariance, or variances, of a corpus's queries, of the calibration:
// the session's own need not be known. Throws Error(kInvalidArgument) without one that holds them,
// Error(kMismatch) for a foreign one.
std::unique_ptr<Scorer> MakeExpectedCalibrated(const Plan& plan, const ModelInfo& model);

}  // namespace pith
