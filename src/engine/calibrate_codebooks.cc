#include <fmt/format.h>
#include <ggml-cpu.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <mutex>
#include <random>

#include "base/fail.h"
#include "base/for_each.h"
#include "calibrate/metadata_keys.h"
#include "calibrate/pq_train.h"
#include "calibrate/rope_layout.h"
#include "engine/calibration_text.h"
#include "engine/session_impl.h"
#include "model/model_impl.h"

namespace pith {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Square = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// A key weighs as much as the root of what attention pays it, in means of a head, but no less than
// this: few keys would decide all centroids otherwise.
constexpr float kLeastPaid = 1e-2f;

// Keys of every head, what attention pays them and who looks at them.
class KeyGatherer {
 public:
  KeyGatherer(const Model& model, const CodebookOptions& options)
      : model_(model),
        info_(model.info()),
        n_threads_(ThreadCount(options.n_threads)),
        n_queries_(options.n_queries),
        random_(options.seed),
        rope_(*model.impl().rope),
        heads_(size_t{1} * info_.n_layers * info_.n_kv_heads) {
    for (HeadKeys& head : heads_) head.queries = Square::Zero(info_.head_dim, info_.head_dim);
  }

  // Calls for one sequence after another.
  void Read(std::span<const Token> sequence, const Progress& progress) {
    const auto length = static_cast<int32_t>(sequence.size());
    ChooseQueries(length);
    turns_.clear();
    for (int32_t i = 0; i < length; ++i) {
      const uint64_t drawn = random_() % static_cast<uint64_t>(info_.n_ctx_train);
      turns_.push_back({rope_.At(i), rope_.At(static_cast<int64_t>(drawn))});
    }
    Session session(model_, {}, {.n_threads = n_threads_});
    session.impl().SetQueryTap([this](int layer, int32_t first, int n, const float* q) {
      const int64_t row = int64_t{info_.n_heads} * info_.head_dim;
      for (size_t i = 0; i < chosen_.size(); ++i) {
        if (chosen_[i] < first || chosen_[i] >= first + n) continue;
        std::copy_n(
            q + (chosen_[i] - first) * row, row,
            queries_.begin() + (layer * std::ssize(chosen_) + static_cast<int64_t>(i)) * row);
      }
    });
    ReadOptions read;
    read.progress = progress;
    session.Read(sequence, read);
    ForEachIndex(static_cast<int>(heads_.size()), n_threads_,
                 [&](int head) { Gather(session.impl().cache, head); });
  }

  // Codebooks of one head, its keys let go.
  struct HeadBooks {
    PqMap map;
    std::vector<std::vector<float>> centroids;  // beside the shapes
  };
  HeadBooks Fit(int head, std::span<const PqShape> shapes, uint64_t seed) {
    HeadKeys gathered = std::move(heads_[static_cast<size_t>(head)]);
    const auto dim = static_cast<size_t>(info_.head_dim);
    std::vector<float> keys(gathered.keys.size());
    ggml_cpu_fp16_to_fp32(gathered.keys.data(), keys.data(), std::ssize(keys));
    Eigen::Map<Eigen::ArrayXf> weights(gathered.paid.data(), std::ssize(gathered.paid));
    const float mean = std::max(weights.mean(), 1e-30f);
    weights = (weights / mean).max(kLeastPaid).sqrt();
    const KeySample sample = {{keys.data(), keys.size() / dim, dim, dim},
                              gathered.paid,
                              {gathered.queries.data(), dim * dim}};
    HeadBooks books{FitPqMap(sample), {}};
    for (const PqShape& shape : shapes) {
      books.centroids.push_back(FitPqCentroids(sample, books.map, shape, seed));
    }
    return books;
  }

  int n_threads() const { return n_threads_; }
  int n_heads() const { return static_cast<int>(heads_.size()); }
  int64_t n_keys() const { return std::ssize(heads_.front().paid); }

 private:
  struct HeadKeys {
    std::vector<ggml_fp16_t> keys;  // [n, head_dim], half-split
    std::vector<float> paid;        // [n]
    Square queries;                 // second moment
  };

  struct Turn {
    Rotation from;
    Rotation to;
  };

  // One from each of equal stretches of the positions that see an entry which has left the window.
  void ChooseQueries(int32_t length) {
    const int32_t first = std::min(plan_.sinks + plan_.window, length - 1);
    const int32_t n = std::min<int32_t>(n_queries_, length - first);
    chosen_.clear();
    for (int32_t i = 0; i < n; ++i) {
      const auto begin = static_cast<int32_t>(int64_t{length - first} * i / n);
      const auto end = static_cast<int32_t>(int64_t{length - first} * (i + 1) / n);
      chosen_.push_back(first + begin +
                        static_cast<int32_t>(random_() % static_cast<uint64_t>(end - begin)));
    }
    queries_.resize(size_t{1} * info_.n_layers * chosen_.size() * info_.n_heads * info_.head_dim);
  }

  // Keys after RoPE depend on where they stand, and codebooks must serve the whole context: a row
  // [head_dim] of token `i` is turned to the position drawn for it. Half-split in the end.
  void Spread(int32_t i, float* row) const {
    const Turn& turn = turns_[static_cast<size_t>(i)];
    turn.from.TurnBack(row);
    turn.to.Turn(row);
    if (!info_.rope_interleaved) return;
    const std::vector<float> interleaved(row, row + info_.head_dim);
    for (int d = 0; d < info_.head_dim; ++d) {
      row[d] = interleaved[static_cast<size_t>(InterleavedIndex(d, info_.head_dim))];
    }
  }

  // The sampled queries of one query head. [n, head_dim]
  Rows Queries(int layer, int head) const {
    Rows rows(std::ssize(chosen_), info_.head_dim);
    for (Eigen::Index i = 0; i < rows.rows(); ++i) {
      const float* from = queries_.data() + ((layer * rows.rows() + i) * info_.n_heads + head) *
                                                int64_t{info_.head_dim};
      std::copy_n(from, rows.cols(), rows.row(i).data());
    }
    return rows;
  }

  void Gather(const Cache& cache, int head) {
    const int layer = head / info_.n_kv_heads;
    const int kv_head = head % info_.n_kv_heads;
    const Eigen::Index n = cache.n_entries(layer, kv_head);
    Rows keys(n, info_.head_dim);
    std::vector<float> value(static_cast<size_t>(info_.head_dim));
    for (Eigen::Index i = 0; i < n; ++i) {
      cache.Read(layer, kv_head, i, keys.row(i).data(), value.data());
    }
    HeadKeys& to = heads_[static_cast<size_t>(head)];
    Eigen::ArrayXf paid = Eigen::ArrayXf::Zero(n);
    const int group = info_.n_heads / info_.n_kv_heads;
    for (int g = 0; g < group; ++g) {
      Rows queries = Queries(layer, kv_head * group + g);
      Rows scores = queries * keys.transpose() / std::sqrt(static_cast<float>(info_.head_dim));
      for (size_t i = 0; i < chosen_.size(); ++i) {
        const int32_t at = chosen_[i];
        const Eigen::Index n_coded = at + 1 - plan_.window - plan_.sinks;
        if (n_coded <= 0) continue;
        auto row = scores.row(static_cast<Eigen::Index>(i)).head(at + 1).array();
        row = (row - row.maxCoeff()).exp();
        row /= row.sum();
        // To first order, an error e of a key's score changes its probability a by a (1 - a) e.
        auto coded = row.segment(plan_.sinks, n_coded);
        coded *= 1 - coded;
        paid.segment(plan_.sinks, n_coded) += coded.transpose();
        Spread(at, queries.row(static_cast<Eigen::Index>(i)).data());
        const Eigen::VectorXd query =
            queries.row(static_cast<Eigen::Index>(i)).transpose().cast<double>();
        to.queries += double{coded.sum()} * query * query.transpose();
      }
    }
    // The last ones are seen by no query from outside the window.
    const Eigen::Index n_sampled = std::max<Eigen::Index>(1, n - plan_.window - plan_.sinks);
    const Eigen::Index first = std::min<Eigen::Index>(plan_.sinks, n - n_sampled);
    for (Eigen::Index i = first; i < first + n_sampled; ++i) {
      Spread(static_cast<int32_t>(i), keys.row(i).data());
    }
    const size_t n_before = to.keys.size();
    to.keys.resize(n_before + static_cast<size_t>(n_sampled * keys.cols()));
    ggml_cpu_fp32_to_fp16(keys.row(first).data(), to.keys.data() + n_before,
                          n_sampled * keys.cols());
    to.paid.insert(to.paid.end(), paid.data() + first, paid.data() + first + n_sampled);
  }

  const Model& model_;
  const ModelInfo& info_;
  const Plan plan_;  // sinks and window are exact
  int n_threads_;
  int n_queries_;
  std::mt19937_64 random_;
  const Rope& rope_;
  std::vector<HeadKeys> heads_;  // [n_layers * n_kv_heads]
  std::vector<Turn> turns_;      // of each token of the sequence
  std::vector<int32_t> chosen_;  // positions, ascending
  std::vector<float> queries_;   // [n_layers, chosen, n_heads, head_dim]
};

std::vector<PqShape> ShapesOf(const CodebookOptions& options, int head_dim) {
  std::vector<PqShape> shapes;
  for (const std::string& name : options.codecs) {
    const std::optional<PqShape> shape = ParsePqShape(name);
    if (!shape) {
      Fail(ErrorCode::kInvalidArgument,
           "'{}' has no codebook, expected pq8xM or pq4xM with M subspaces, an even number for pq4",
           name);
    }
    CheckPqShape(*shape, head_dim);
    const bool is_new = std::none_of(shapes.begin(), shapes.end(), [&](const PqShape& other) {
      return other.name() == shape->name();
    });
    if (is_new) shapes.push_back(*shape);
  }
  if (shapes.empty()) Fail(ErrorCode::kInvalidArgument, "codebooks of which codecs?");
  return shapes;
}

}  // namespace

void CalibrateCodebooks(const Model& model, std::span<const std::string> texts,
                        const CodebookOptions& options, Calibration& calibration,
                        const CodebookProgress& progress) {
  const ModelInfo& info = model.info();
  calibration.codebooks.reset();
  if (!calibration.metadata.empty()) calibration.CheckFits(info);
  const std::vector<PqShape> shapes = ShapesOf(options, info.head_dim);
  if (options.n_queries < 1) {
    Fail(ErrorCode::kInvalidArgument, "{} queries of a sequence, expected at least 1",
         options.n_queries);
  }
  const auto sequences = CutSequences(model, texts, options.n_sequences, options.sequence_tokens);
  KeyGatherer gatherer(model, options);
  const int64_t n_tokens = int64_t{options.n_sequences} * options.sequence_tokens;
  for (int64_t done = 0; const std::vector<Token>& sequence : sequences) {
    gatherer.Read(sequence, [&](int64_t n_read, int64_t) {
      return !progress.read || progress.read(done + n_read, n_tokens);
    });
    done += options.sequence_tokens;
  }
  const int64_t n_keys = gatherer.n_keys();

  std::vector<KeyGatherer::HeadBooks> books(static_cast<size_t>(gatherer.n_heads()));
  std::mutex mutex;
  int64_t n_done = 0;
  ForEachIndex(gatherer.n_heads(), gatherer.n_threads(), [&](int head) {
    books[static_cast<size_t>(head)] = gatherer.Fit(head, shapes, options.seed);
    const std::lock_guard lock(mutex);
    if (progress.train && !progress.train(++n_done, gatherer.n_heads())) {
      Fail(ErrorCode::kCancelled, "cancelled after {} of {} heads", n_done, gatherer.n_heads());
    }
  });
  PqCodebooks codebooks{info.n_layers, info.n_kv_heads, info.head_dim, {}, {}, {}, {}};
  const auto append = [](std::vector<float>& to, const std::vector<float>& part) {
    to.insert(to.end(), part.begin(), part.end());
  };
  for (const KeyGatherer::HeadBooks& head : books) {
    append(codebooks.centre, head.map.centre);
    append(codebooks.map, head.map.map);
    append(codebooks.energy, head.map.energy);
    for (size_t i = 0; i < shapes.size(); ++i) {
      append(codebooks.centroids[shapes[i].name()], head.centroids[i]);
    }
  }
  calibration.n_layers = info.n_layers;
  calibration.n_kv_heads = info.n_kv_heads;
  calibration.head_dim = info.head_dim;
  calibration.codebooks = std::move(codebooks);
  calibration.metadata[kModelKey] = info.name;
  calibration.metadata[kFingerprintKey] = info.fingerprint;
  calibration.metadata[kCodebooksSeedKey] = fmt::format("{}", options.seed);
  calibration.metadata[kCodebooksKeysKey] = fmt::format("{}", n_keys);
  calibration.metadata[kCodebooksPositionsKey] = fmt::format("{}", info.n_ctx_train);
}

}  // namespace pith
