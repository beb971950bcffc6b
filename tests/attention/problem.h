// Attention problems for tests: ragged pages with poisoned tails, the comparison with the
// reference.
#pragma once

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <ggml.h>

#include "attention/aligned_floats.h"
#include "attention/attention.h"
#include "attention/kernels.h"
#include "cache/codec.h"

namespace pith {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr int kEvery = 37;  // instrumented code is slow: some cases of the same list
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr int kEvery = 37;
#else
inline constexpr int kEvery = 1;
#endif
#else
inline constexpr int kEvery = 1;
#endif

// What the codecs of a head's rows are called.
struct CodecNames {
  std::string keys = "f16";
  std::string values = "f16";
  std::shared_ptr<const Codec> codes = nullptr;  // of keys that have codebooks or frames
};

// Whether kernels of the current level sum products of bytes four at a time.
inline bool HasVnni() { return CurrentSimdLevel() == "AVX3_DL"; }

// Whether queries, and weights of integer values, are rounded to integers for `n_rows` rows.
struct Rounding {
  bool queries;
  bool weights;

  Rounding(const CodecNames& codecs, int n_rows) {
    const bool few = n_rows <= CurrentKernels().decode_max_rows;
    const bool integers =
        codecs.keys.rfind("pq8", 0) != 0 && codecs.keys != "f16" && codecs.values != "f16";
    queries = few || integers;
    weights = queries || codecs.values == "q4" || HasVnni();
  }
};

// One KV head's entries in pages that are aligned, scattered and full of NaN where nobody wrote.
class TestHead {
 public:
  TestHead(int head_dim, int64_t n_entries, const CodecNames& codecs = {})
      : head_dim_(head_dim),
        key_codec_(codecs.codes != nullptr ? codecs.codes : MakeKeyCodec(codecs.keys, head_dim)),
        value_codec_(MakeValueCodec(codecs.values, head_dim)) {
    tier_ = {.n_entries = n_entries,
             .key_bytes = key_codec_->PageBytes(),
             .page_bytes = key_codec_->PageBytes() + value_codec_->PageBytes(),
             .keys = key_codec_->Format(0),
             .values = value_codec_->Format(0)};
    for (int64_t i = 0; i < n_entries; i += kPageEntries) {
      auto* page = static_cast<std::byte*>(
          ::operator new (tier_.page_bytes, std::align_val_t{kPageAlignment}));
      std::memset(page, 0xff, tier_.page_bytes);
      pages_.push_back(page);
    }
    tier_.pages = pages_.data();
  }
  ~TestHead() {
    for (std::byte* page : pages_) ::operator delete (page, std::align_val_t{kPageAlignment});
  }
  TestHead(const TestHead&) = delete;
  TestHead& operator=(const TestHead&) = delete;

  void Set(int64_t entry, const float* key, const float* value) {
    std::byte* page = pages_[entry / kPageEntries];
    const auto dims = static_cast<size_t>(head_dim_);
    const auto slot = static_cast<int>(entry % kPageEntries);
    key_codec_->Encode(0, {key, 1, dims, dims}, slot, page);
    value_codec_->Encode(0, {value, 1, dims, dims}, slot, page + tier_.key_bytes);
  }
  // Of f16 rows.
  void SetKey(int64_t entry, int dim, float value) {
    auto* keys = reinterpret_cast<F16*>(pages_[entry / kPageEntries]);
    const int64_t block = entry % kPageEntries / kBlockEntries;
    keys[(block * head_dim_ + dim) * kBlockEntries + entry % kBlockEntries] =
        ggml_fp32_to_fp16(value);
  }
  void SetValue(int64_t entry, int dim, float value) {
    auto* values = reinterpret_cast<F16*>(pages_[entry / kPageEntries] + tier_.key_bytes);
    values[entry % kPageEntries * head_dim_ + dim] = ggml_fp32_to_fp16(value);
  }
  std::vector<float> Key(int64_t entry) const {
    std::vector<float> key(head_dim_);
    key_codec_->Decode(0, pages_[entry / kPageEntries], static_cast<int>(entry % kPageEntries),
                       key.data());
    return key;
  }
  HeadView view(int64_t n_chunk) const {
    HeadView head;
    head.tiers[0] = tier_;
    head.n_chunk = n_chunk;
    return head;
  }

 private:
  int head_dim_;
  std::shared_ptr<const Codec> key_codec_;
  std::unique_ptr<Codec> value_codec_;
  std::vector<std::byte*> pages_;
  TierView tier_;
};

struct Problem {
  AttentionShape shape;
  int n_tokens = 0;
  bool causal = false;
  std::vector<std::unique_ptr<TestHead>> heads;
  std::vector<float> q;  // [n_tokens, n_heads, head_dim]

  std::vector<HeadView> views() const {
    std::vector<HeadView> result;
    for (const auto& head : heads) result.push_back(head->view(causal ? n_tokens : 0));
    return result;
  }
};

// `counts`: entries of each KV head, the chunk's own not included.
inline Problem MakeProblem(int head_dim, int group, const std::vector<int64_t>& counts,
                           int n_tokens, bool causal, uint32_t seed, float q_size = 1.0f,
                           const CodecNames& codecs = {}) {
  Problem p;
  p.shape = {.head_dim = head_dim,
             .n_heads = group * static_cast<int>(counts.size()),
             .n_kv_heads = static_cast<int>(counts.size()),
             .scale = 1.0f / std::sqrt(static_cast<float>(head_dim))};
  p.n_tokens = n_tokens;
  p.causal = causal;
  std::minstd_rand random(seed);
  const auto next = [&] { return static_cast<float>(random() % 65536) / 32768.0f - 1.0f; };
  for (const int64_t count : counts) {
    const int64_t n = count + (causal ? n_tokens : 0);
    auto& head = p.heads.emplace_back(std::make_unique<TestHead>(head_dim, n, codecs));
    std::vector<float> key(head_dim), value(head_dim);
    for (int64_t i = 0; i < n; ++i) {
      for (int d = 0; d < head_dim; ++d) {
        key[d] = 2.0f * next();
        value[d] = next();
      }
      head->Set(i, key.data(), value.data());
    }
  }
  p.q.resize(size_t{1} * n_tokens * p.shape.n_heads * head_dim);
  for (float& x : p.q) x = 2.0f * q_size * next();
  return p;
}

inline void RunOnThreads(AttentionPlan& plan, const Problem& p, int n_threads, float* out) {
  const std::vector<HeadView> views = p.views();
  std::vector<std::thread> threads;
  for (int t = 1; t < n_threads; ++t) {
    threads.emplace_back([&, t] { plan.Run(p.q.data(), views, out, t, n_threads); });
  }
  plan.Run(p.q.data(), views, out, 0, n_threads);
  for (std::thread& thread : threads) thread.join();
}

inline std::vector<float> Attend(const Problem& p, int n_threads) {
  // NaN where nothing is written, so that an output left out is seen.
  std::vector<float> out(p.q.size(), std::numeric_limits<float>::quiet_NaN());
  AttentionPlan plan(p.shape, n_threads);
  plan.Prepare(p.n_tokens);
  RunOnThreads(plan, p, n_threads, out.data());
  return out;
}

// Scores of the first head's queries, times shape.scale, as the kernels that decode make them,
// against those of its decoded keys: calls check(query, key, got, want).
template <class Check>
void CompareScores(const Problem& p, const Check& check) {
  const HeadView view = p.heads[0]->view(0);
  const TierView& tier = view.tiers[0];
  const int head_dim = p.shape.head_dim;
  const int group = p.shape.n_heads / p.shape.n_kv_heads;
  const int64_t n_pages = (tier.n_entries + kPageEntries - 1) / kPageEntries;
  const AlignedFloats scratch = AllocateFloats(ScratchFloats(head_dim, group));
  const AlignedFloats scores = AllocateFloats(n_pages * group * kStepEntries);
  CurrentKernels().score({.pages = tier.pages,
                          .key_bytes = tier.key_bytes,
                          .page_bytes = tier.page_bytes,
                          .keys = tier.keys,
                          .values = tier.values,
                          .begin = 0,
                          .end = tier.n_entries,
                          .head_dim = head_dim,
                          .group = group,
                          .n_tokens = 1,
                          .q = p.q.data(),
                          .q_stride = 0,
                          .scale = p.shape.scale,
                          .first_visible = tier.n_entries,
                          .visible_step = 0,
                          .scratch = scratch.get(),
                          .state = {}},
                         scores.get());
  for (int64_t i = 0; i < tier.n_entries; ++i) {
    const std::vector<float> key = p.heads[0]->Key(i);
    for (int r = 0; r < group; ++r) {
      const float* q = &p.q[size_t{1} * r * head_dim];
      double want = 0;
      for (int d = 0; d < head_dim; ++d) want += double{q[d]} * key[d];
      check(q, key, scores[(i / kPageEntries * group + r) * kStepEntries + i % kPageEntries],
            want * p.shape.scale);
    }
  }
}

inline std::vector<double> Reference(const Problem& p) {
  std::vector<double> out(p.q.size());
  ReferenceAttention(p.shape, p.q.data(), p.n_tokens, p.views(), out.data());
  return out;
}

// How far a correct f32 kernel may be off in one output of a query of norm `q_norm`, against keys
// of norm at most `k_norm` and values of size at most `v_max`, over n entries.
//   A score errs by about eps * sqrt(head_dim) * scale * |q| |k| (rounding of its products and
//   sums, as a random walk), a weight relatively by that and 2 eps of the exponential, the weighted
//   mean by at most twice the weights' error; its own sums add eps * sqrt(n).
inline double Tolerance(const AttentionShape& shape, double q_norm, double k_norm, double v_max,
                        double n) {
  constexpr double kEps = std::numeric_limits<float>::epsilon();
  const double score = std::sqrt(shape.head_dim) * std::fabs(shape.scale) * q_norm * k_norm;
  return kEps * (score + 4 + std::sqrt(n)) * v_max;
}

// The largest error in units of its tolerance; infinite if any output that should not be NaN is, or
// the other way round. At most 1 is a pass.
inline double WorstError(const Problem& p, const std::vector<float>& got,
                         const std::vector<double>& want, double k_norm, double v_max) {
  double worst = 0;
  const int head_dim = p.shape.head_dim;
  const std::vector<HeadView> views = p.views();
  for (size_t row = 0; row * head_dim < got.size(); ++row) {
    double q2 = 0;
    for (int d = 0; d < head_dim; ++d)
      q2 += double{p.q[row * head_dim + d]} * p.q[row * head_dim + d];
    const int kv_head =
        static_cast<int>(row % p.shape.n_heads) / (p.shape.n_heads / p.shape.n_kv_heads);
    const double tolerance = Tolerance(p.shape, std::sqrt(q2), k_norm, v_max,
                                       static_cast<double>(views[kv_head].n_entries()));
    for (size_t i = row * head_dim; i < (row + 1) * head_dim; ++i) {
      if (std::isnan(want[i]) != std::isnan(got[i])) return std::numeric_limits<double>::infinity();
      if (std::isnan(want[i])) continue;
      const double error = std::fabs(got[i] - want[i]);
      if (!(error <= tolerance * worst)) worst = error / tolerance;
    }
  }
  return worst;
}

// Bounds for MakeProblem's data.
inline double WorstError(const Problem& p, const std::vector<float>& got,
                         const std::vector<double>& want) {
  return WorstError(p, got, want, 2.0 * std::sqrt(p.shape.head_dim), 1.0);
}

// Runs at one SIMD level, then at the best again.
class ForcedLevel {
 public:
  explicit ForcedLevel(const std::string& name) : taken_(ForceSimdLevel(name)) {}
  ~ForcedLevel() { ForceSimdLevel(""); }
  bool taken() const { return taken_; }

 private:
  bool taken_;
};

}  // namespace pith
