// Data computed once per model (`.pithcal`, a safetensors file; see docs/formats.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pith/model.h"

namespace pith {

// Called now and then with what is done of what is to do; returning false cancels.
using Progress = std::function<bool(int64_t done, int64_t total)>;

// One layer of a KVzap surrogate. All row-major f32; n_in is n_hidden, or n_embd without a hidden
// layer, when weight_in and bias_in are empty.
struct KvzapLayer {
  std::vector<float> weight_in;  // [n_hidden, n_embd]
  std::vector<float> bias_in;    // [n_hidden]
  std::vector<float> weight;     // [n_kv_heads, n_in]
  std::vector<float> bias;       // [n_kv_heads]
};

// KVzap (arXiv 2601.07891, section 3): for every KV head the natural log of the KVzip+ score, as a
// function of the hidden state h that enters the layer's attention, after its norm:
//   weight h + bias, or weight gelu(weight_in h + bias_in) + bias, with the exact gelu.
struct KvzapSurrogate {
  int n_embd = 0;
  int n_kv_heads = 0;
  int n_hidden = 0;                // 0: linear
  std::vector<KvzapLayer> layers;  // [n_layers]
  // Evenly spaced quantiles of what it gives texts, all layers and heads together: the least, ...,
  // the largest. Ascending; empty where nothing is known (published files).
  std::vector<float> quantiles;
};

// One layer of a kvzap+ surrogate: two linear maps, the rows of the second after those of the
// first. All row-major f32.
struct KvzapPlusLayer {
  std::vector<float> weight;       // [2 * n_kv_heads, n_embd], of the hidden state
  std::vector<float> key_weight;   // [2 * n_kv_heads, head_dim], of the entry's key after RoPE
  std::vector<float> norm_weight;  // [2 * n_kv_heads, 2], of ln |key| and ln |value|
  std::vector<float> bias;         // [2 * n_kv_heads]
};

// kvzap+: KVzap, which also sees the entry itself when it is appended and predicts two things, how
// much the entry is needed to repeat the text (KVzip, arXiv 2505.23416) and how much what follows
// looks at it; the entry's worth is the larger one. See docs/kvzap.md.
struct KvzapPlusSurrogate {
  int n_embd = 0;
  int n_kv_heads = 0;
  int head_dim = 0;
  std::vector<KvzapPlusLayer> layers;  // [n_layers], half-split RoPE layout
  std::vector<float> quantiles;        // of worths, as of KvzapSurrogate
};

// Mean and covariance of what each query head asks over texts, before RoPE (Expected Attention,
// arXiv 2510.00636).
struct QueryStatistics {
  int n_layers = 0;
  int n_heads = 0;  // query heads
  int head_dim = 0;
  std::vector<float> mean;  // [n_layers, n_heads, head_dim] f32, half-split RoPE layout
  // [n_layers, n_heads, head_dim, head_dim], or of that the diagonal only, the variances:
  // [n_layers, n_heads, head_dim]
  std::vector<float> covariance;
};

// qfilter+: what it costs each KV head to keep only the first of its entries, in the order of
// expected_calibrated. See docs/evaluation.md.
struct KeepCurves {
  static constexpr int kPoints = 33;
  // Share of the entries that is kept at a point: 0 to 1, denser where little is kept.
  static constexpr double Share(int point) {
    return static_cast<double>(point * point) / ((kPoints - 1) * (kPoints - 1));
  }

  int n_layers = 0;
  int n_kv_heads = 0;
  // Mean |error|^2 of what the KV head's query heads write into the residual stream, relative to
  // the mean |.|^2 of what all heads of the layer write. [n_layers, n_kv_heads, kPoints], 0 or more
  std::vector<float> loss;
};

// Codebooks for keys as codes of a product quantiser (LOOKAT, arXiv 2601.10155, section 3). A key
// after RoPE is taken as
//   centre + sum over i of y[i] map[i],
// where y [head_dim] is cut into M equal parts and each is one of the K centroids of its part. The
// map is the same for all codebooks of a head. All values are f16 numbers.
struct PqCodebooks {
  int n_layers = 0;
  int n_kv_heads = 0;
  int head_dim = 0;
  std::vector<float> centre;  // [n_layers, n_kv_heads, head_dim], half-split RoPE layout
  std::vector<float> map;     // [n_layers, n_kv_heads, head_dim, head_dim], rows half-split
  // By codec, "pq8xM" (K = 256) or "pq4xM" (K = 16).
  std::map<std::string, std::vector<float>>
      centroids;  // [n_layers, n_kv_heads, M, K, head_dim / M]
  // Shares of the mean of y[i]^2, which sum to 1 and say which directions of the map "lrR" keeps;
  // empty in files made before it. [n_layers, n_kv_heads, head_dim]
  std::vector<float> energy;
};

// Q-Filters (arXiv 2503.02812): one direction per layer and KV head; surrogates; what queries are
// like; codebooks; or all of them.
class Calibration {
 public:
  // Reads a .pithcal, a published Q-Filters file (safetensors with one tensor `q_filters`
  // [n_layers, n_kv_heads, head_dim], stored negated, Hugging Face half-split RoPE layout), or a
  // published KVzap file (safetensors with `layers.{i}.weight` and `.bias`, or `layers.{i}.0.` and
  // `layers.{i}.2.`), or published query statistics (`query_mean` and `query_cov`). Throws
  // Error(kNotFound, kIo, kFormat).
  static Calibration Load(const std::filesystem::path& file);
  // Writes to a temporary name and renames, so that `file` is old or new but never half. Surrogate
  // weights are stored as f16 where that loses nothing.
  void Save(const std::filesystem::path& file) const;

  // Throws Error(kMismatch) unless shape and, where the file has one, fingerprint are the model's.
  void CheckFits(const ModelInfo& model) const;

  // Filters in the RoPE layout of `model`, negated as published: an entry's worth is -(filter .
  // key). [n_layers, n_kv_heads, head_dim] f32
  std::vector<float> FiltersFor(const ModelInfo& model) const;
  // kvzap_plus, which must be there, with key weights in the RoPE layout of `model`.
  KvzapPlusSurrogate KvzapPlusFor(const ModelInfo& model) const;
  // The same of queries.
  QueryStatistics QueriesFor(const ModelInfo& model) const;

  // The same of codebooks: centre and the map's rows.
  PqCodebooks CodebooksFor(const ModelInfo& model) const;

  bool has_filters() const { return !q_filters.empty() || !(kvzap || queries || codebooks); }

  int n_layers = 0;
  int n_kv_heads = 0;            // 0 in published query statistics
  int head_dim = 0;              // 0 without Q-Filters, query statistics and codebooks
  std::vector<float> q_filters;  // [n_layers, n_kv_heads, head_dim] f32, half-split, negated
  std::optional<KvzapSurrogate> kvzap;
  std::optional<KvzapPlusSurrogate> kvzap_plus;
  std::optional<QueryStatistics> queries;
  std::optional<KeepCurves> curves;
  std::optional<PqCodebooks> codebooks;
  std::map<std::string, std::string> metadata;  // model fingerprint, corpus, seed, counts
};

struct CalibrateOptions {
  int n_sequences = 20;
  int sequence_tokens = 2048;
  int rows_per_head = 3000;  // queries sampled for the SVD of each query head
  bool covariance = false;   // of the queries in full, not only their variances
  int n_curves = 8;          // of the sequences, those that loss curves are measured on
  uint64_t seed = 42;
  int n_threads = 0;  // 0: one per core
};

// Runs `texts` (each a document) through the model and computes Q-Filters, mean and variance of the
// queries and loss curves. Throws Error(kInvalidArgument) when the texts hold fewer tokens than
// asked for.
Calibration Calibrate(const Model& model, std::span<const std::string> texts,
                      const CalibrateOptions& options, const Progress& progress = {});

struct KvzapOptions {
  bool mlp = false;      // a hidden layer of n_embd / 8 instead of a linear map
  bool plus = false;     // the surrogate of kvzap+ instead; needs the Q-Filters of the calibration
  int n_prompts = 48;    // an eighth of them, at least one, for validation, as many held out
  int min_tokens = 750;  // of a prompt
  int max_tokens = 1250;
  int n_positions = 500;  // sampled of each prompt
  int epochs = 15;        // of an mlp
  uint64_t seed = 42;
  int n_threads = 0;  // 0: one per core
  // Where the samples of each prompt are written, 2 * n_positions * n_layers * n_embd bytes and
  // some. Those that are there from a run with the same settings are not made again.
  std::filesystem::path work_folder;
};

// How much of the variance of held-out prompts' log scores a surrogate explains.
struct KvzapQuality {
  std::vector<float> r2;  // [n_layers, n_kv_heads]; of the first prediction of kvzap+
  double mean_r2 = 0;
  std::vector<float> received_r2;  // the same of its second one, otherwise empty
  double mean_received_r2 = 0;
};

struct KvzapProgress {
  Progress harvest;  // tokens read, and repeated to judge them
  Progress train;    // layers; calls come from several threads, one at a time
};

// Judges prompts cut from `texts` (each a document) by KVzip+, samples hidden states and log scores
// from them, and trains a surrogate, which replaces the one of `calibration` and sets its metadata
// kvzap_*, or kvzap_plus_*. Half of the prompts have a few made-up facts in them. Every document
// serves only one of training, validation and the held-out prompts. Error(kInvalidArgument) for
// options that make no sense or texts that are too short, Error(kMismatch) for a folder with other
// samples or a calibration of another model, Error(kCancelled).
KvzapQuality CalibrateKvzap(const Model& model, std::span<const std::string> texts,
                            const KvzapOptions& options, Calibration& calibration,
                            const KvzapProgress& progress = {});

struct CodebookOptions {
  std::vector<std::string> codecs;  // "pq8x16", ...
  int n_sequences = 8;
  int sequence_tokens = 2048;
  int n_queries = 128;  // of every sequence, whose attention says how much a key matters
  uint64_t seed = 42;
  int n_threads = 0;  // 0: one per core
};

struct CodebookProgress {
  Progress read;   // tokens
  Progress train;  // heads; calls come from several threads, one at a time
};

// Runs `texts` (each a document) through the model and makes codebooks of its keys, which replace
// those of `calibration`, with its metadata codebooks_*. Needs memory for 2 * n_layers * n_kv_heads
// * head_dim bytes a token. Throws Error(kInvalidArgument) for a codec that is none or whose
// subspaces do not divide head_dim, or where the texts hold fewer tokens than asked for,
// Error(kMismatch) for a calibration of another model, Error(kCancelled).
void CalibrateCodebooks(const Model& model, std::span<const std::string> texts,
                        const CodebookOptions& options, Calibration& calibration,
                        const CodebookProgress& progress = {});

}  // namespace pith
