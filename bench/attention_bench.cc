// Attention alone: decode against the read bandwidth that the machine has at that moment, prefill
// against its arithmetic peak. Every layer has pages of its own, so that decode reads them from
// memory as a model does.
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "attention/aligned_floats.h"
#include "attention/attention.h"
#include "attention/kernels.h"
#include "cache/codec.h"
#include "cache/page_pool.h"
#include "cache/pq_key_codec.h"
#include "read_memory.h"
#include "team.h"

namespace pith {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// What this thread computed, whatever else the machine was doing meanwhile.
double ThreadSeconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

struct CodecPair {
  std::string keys;
  std::string values;
};

// "f16", "q8", "q4", or codes of a codebook of random numbers: what a look-up takes does not depend
// on what is found.
std::unique_ptr<Codec> MakeAnyKeyCodec(const std::string& name, int head_dim) {
  const std::optional<PqShape> shape = ParsePqShape(name);
  if (!shape) return MakeKeyCodec(name, head_dim);
  CheckPqShape(*shape, head_dim);
  std::minstd_rand random(2);
  std::vector<float> centroids(size_t{1} * head_dim * shape->n_centroids());
  for (float& x : centroids) x = static_cast<float>(random() % 65536) / 32768.0f - 1.0f;
  std::vector<float> map(size_t{1} * head_dim * head_dim);
  for (int i = 0; i < head_dim; ++i) map[i * (head_dim + 1)] = 1.0f;
  const std::vector<float> centre(head_dim);
  return std::make_unique<PqKeyCodec>(
      std::vector<PqCodebook>{PqCodebook(*shape, centre, map, centroids)});
}

// The cache of a model: pages of a PagePool as the engine has them, in an order shuffled layer by
// layer, with random contents.
class Pages {
 public:
  // counts [n_layers][n_kv_heads]: entries of each head.
  Pages(int head_dim, const CodecPair& codecs, const std::vector<std::vector<int64_t>>& counts)
      : keys_(MakeAnyKeyCodec(codecs.keys, head_dim)),
        values_(MakeValueCodec(codecs.values, head_dim)),
        pool_(keys_->PageBytes() + values_->PageBytes()) {
    std::minstd_rand random(1);
    const std::vector<std::byte> contents = Encoded(head_dim, random);
    for (const std::vector<int64_t>& heads : counts) {
      std::vector<std::byte*> pages;
      for (const int64_t n : heads) {
        for (int64_t i = 0; i < n; i += kPageEntries) {
          pages.push_back(pool_.Allocate());
          std::copy(contents.begin(), contents.end(), pages.back());
        }
      }
      std::shuffle(pages.begin(), pages.end(), random);
      pages_.push_back(std::move(pages));
      std::byte* const* next = pages_.back().data();
      std::vector<HeadView> views;
      for (const int64_t n : heads) {
        HeadView view;
        view.tiers[0] = {
            next, n, keys_->PageBytes(), pool_.page_bytes(), keys_->Format(0), values_->Format(0)};
        views.push_back(view);
        next += (n + kPageEntries - 1) / kPageEntries;
        n_entries_ += n;
      }
      views_.push_back(std::move(views));
    }
  }

  std::vector<std::vector<HeadView>> views(int64_t n_chunk) const {
    std::vector<std::vector<HeadView>> views = views_;
    for (std::vector<HeadView>& layer : views) {
      for (HeadView& view : layer) view.n_chunk = n_chunk;
    }
    return views;
  }
  int64_t n_entries() const { return n_entries_; }
  // Of all entries, or of their keys alone.
  double bytes(bool keys_alone) const {
    const size_t of_page = keys_alone ? keys_->PageBytes() : pool_.page_bytes();
    return static_cast<double>(n_entries_) / kPageEntries * static_cast<double>(of_page);
  }

 private:
  // A page of rows with elements in -1..1.
  std::vector<std::byte> Encoded(int head_dim, std::minstd_rand& random) const {
    const auto dims = static_cast<size_t>(head_dim);
    std::vector<float> rows(2 * kPageEntries * dims);
    for (float& x : rows) x = static_cast<float>(random() % 65536) / 32768.0f - 1.0f;
    std::vector<std::byte> page(pool_.page_bytes());
    const float* values = rows.data() + kPageEntries * dims;
    keys_->Encode(0, {rows.data(), kPageEntries, dims, dims}, 0, page.data());
    values_->Encode(0, {values, kPageEntries, dims, dims}, 0, page.data() + keys_->PageBytes());
    return page;
  }

  std::unique_ptr<Codec> keys_;
  std::unique_ptr<Codec> values_;
  PagePool pool_;
  std::vector<std::vector<std::byte*>> pages_;
  std::vector<std::vector<HeadView>> views_;
  int64_t n_entries_ = 0;
};

struct Options {
  int head_dim = 64;
  int n_heads = 9;
  int n_kv_heads = 3;
  int n_layers = 30;
  int threads = 2;
  int repeats = 7;
  std::vector<int64_t> depths = {512, 2048, 8192};
  std::vector<int> chunks = {1, 512};
  std::vector<std::string> codecs = {"f16"};
  std::string level;
  bool ragged = false;
  bool scores = false;
  bool json = false;
};

// All heads alike, or every tenth head of the model, counted layer by layer, with nine tenths of
// the same entries: some layers have one long head among short ones, others short ones alone.
std::vector<std::vector<int64_t>> Counts(const Options& o, int64_t n_entries, bool ragged) {
  std::vector<std::vector<int64_t>> counts(o.n_layers,
                                           std::vector<int64_t>(o.n_kv_heads, n_entries));
  if (!ragged) return counts;
  const int n_heads = o.n_layers * o.n_kv_heads;
  const int n_long = (n_heads + 9) / 10;
  const int64_t total = n_entries * n_heads;
  for (int i = 0; i < n_heads; ++i) {
    int64_t& n = counts[i / o.n_kv_heads][i % o.n_kv_heads];
    n = i % 10 == 0 ? total * 9 / 10 / n_long : total / 10 / (n_heads - n_long);
  }
  return counts;
}

// "q8" for both, "q8:q4" for keys and values.
CodecPair PairOf(const std::string& name) {
  const size_t colon = name.find(':');
  if (colon == std::string::npos) return {name, name};
  return {name.substr(0, colon), name.substr(colon + 1)};
}

// One way of filling the cache, measured.
struct Pass {
  Pass(const Options& o, const std::string& codec_names, int64_t n_entries, int64_t n_chunk,
       bool is_ragged)
      : codecs(codec_names),
        ragged(is_ragged),
        pages(o.head_dim, PairOf(codec_names), Counts(o, n_entries, is_ragged)),
        views(pages.views(n_chunk)) {}

  std::string codecs;
  bool ragged;
  Pages pages;
  std::vector<std::vector<HeadView>> views;
  std::vector<double> seconds;
  std::vector<double> core_seconds;
  std::vector<double> shares;    // of the reads just before and after
  std::vector<double> by_first;  // of the first pass's time in the same round
  std::vector<double> by_even;   // of ragged passes: of the time of the even one before it
  double hash = 0;
};

nlohmann::json Record(const Options& o, const Pass& pass, int64_t depth, int chunk) {
  const double s = Median(pass.seconds);
  const double entries = static_cast<double>(depth) + (chunk + 1) / 2.0;  // seen by a query, mean
  const double flop =
      (o.scores ? 2.0 : 4.0) * o.n_layers * o.n_heads * o.head_dim * chunk * entries;
  return {{"level", CurrentSimdLevel()},
          {"codecs", pass.codecs},
          {"threads", o.threads},
          {"depth", depth},
          {"chunk", chunk},
          {"ragged", pass.ragged},
          {"ms", s * 1e3},
          {"min_ms", *std::min_element(pass.seconds.begin(), pass.seconds.end()) * 1e3},
          {"gflops", flop / s * 1e-9},
          {"gflops_core", flop / Median(pass.core_seconds) * 1e-9},
          {"gbps", pass.pages.bytes(o.scores) / s * 1e-9},
          {"bandwidth_share", Median(pass.shares)},
          {"by_first", Median(pass.by_first)},
          {"hash", pass.hash}};
}

// Scores alone, of one query: heads are shared out among the threads, each whole.
class ScoreRun {
 public:
  ScoreRun(const Options& o, const AttentionShape& shape, int64_t n_entries)
      : shape_(shape), group_(shape.n_heads / shape.n_kv_heads) {
    const int64_t n_pages = (n_entries + kPageEntries - 1) / kPageEntries;
    for (int i = 0; i < o.threads; ++i) {
      scratch_.push_back(AllocateFloats(ScratchFloats(shape.head_dim, group_)));
      scores_.push_back(AllocateFloats(n_pages * group_ * kStepEntries));
    }
  }

  void Run(const float* q, const std::vector<std::vector<HeadView>>& layers, int thread) {
    const int n_threads = static_cast<int>(scratch_.size());
    int task = 0;
    for (const std::vector<HeadView>& layer : layers) {
      for (size_t head = 0; head < layer.size(); ++head, ++task) {
        if (task % n_threads != thread) continue;
        const TierView& tier = layer[head].tiers[0];
        CurrentKernels().score({.pages = tier.pages,
                                .key_bytes = tier.key_bytes,
                                .page_bytes = tier.page_bytes,
                                .keys = tier.keys,
                                .values = tier.values,
                                .begin = 0,
                                .end = tier.n_entries,
                                .head_dim = shape_.head_dim,
                                .group = group_,
                                .n_tokens = 1,
                                .q = q + head * group_ * shape_.head_dim,
                                .q_stride = 0,
                                .scale = shape_.scale,
                                .first_visible = tier.n_entries,
                                .visible_step = 0,
                                .scratch = scratch_[thread].get(),
                                .state = {}},
                               scores_[thread].get());
      }
    }
  }

  double Hash() const { return scores_[0][0] + scores_[0][1]; }

 private:
  AttentionShape shape_;
  int group_;
  std::vector<AlignedFloats> scratch_;  // of each thread
  std::vector<AlignedFloats> scores_;
};

// Every pair of codecs, even and, if asked for, ragged, in alternation with pure reads of other
// memory: what the machine gives changes within seconds, so a share is the median of shares of the
// reads around a pass, and passes are compared within a round.
std::vector<nlohmann::json> Measure(const Options& o, Team& team, const ReadMemory& memory,
                                    int64_t depth, int chunk) {
  std::minstd_rand random(1);
  const AttentionShape shape = {.head_dim = o.head_dim,
                                .n_heads = o.n_heads,
                                .n_kv_heads = o.n_kv_heads,
                                .scale = 1.0f / std::sqrt(static_cast<float>(o.head_dim))};
  std::vector<std::unique_ptr<Pass>> passes;
  for (const std::string& codecs : o.codecs) {
    for (const bool ragged : {false, true}) {
      if (ragged && !o.ragged) continue;
      passes.push_back(std::make_unique<Pass>(o, codecs, depth + chunk, chunk, ragged));
    }
  }
  const size_t n = size_t{1} * chunk * o.n_heads * o.head_dim;
  std::vector<float> q(n), out(n);
  for (float& x : q) x = static_cast<float>(random() % 1000) / 250.0f - 2.0f;
  AttentionPlan plan(shape, team.n_threads());
  plan.Prepare(chunk);
  ScoreRun scoring(o, shape, o.scores ? depth + chunk : 0);

  std::vector<double> read_speeds = {memory.Read(team)};
  std::vector<double> by_thread(team.n_threads());
  for (int repeat = 0; repeat < o.repeats; ++repeat) {
    double even_seconds = 0;
    for (const auto& pass : passes) {
      by_thread.assign(team.n_threads(), 0.0);
      const auto begin = Clock::now();
      const auto run = [&](const auto& work) {
        team.Run([&](int thread) {
          const double start = ThreadSeconds();
          work(thread);
          by_thread[thread] += ThreadSeconds() - start;
        });
      };
      if (o.scores) {
        run([&](int thread) { scoring.Run(q.data(), pass->views, thread); });
      } else {
        for (const std::vector<HeadView>& views : pass->views) {
          run([&](int thread) { plan.Run(q.data(), views, out.data(), thread, team.n_threads()); });
        }
      }
      const double s = Seconds(begin);
      const double before = read_speeds.back();
      read_speeds.push_back(memory.Read(team));
      pass->shares.push_back(pass->pages.bytes(o.scores) / s / ((before + read_speeds.back()) / 2));
      pass->seconds.push_back(s);
      pass->by_first.push_back(s / passes.front()->seconds.back());
      if (pass->ragged) pass->by_even.push_back(s / even_seconds);
      even_seconds = s;
      pass->core_seconds.push_back(std::accumulate(by_thread.begin(), by_thread.end(), 0.0));
      for (const float x : out) pass->hash += x;
      if (o.scores) pass->hash += scoring.Hash();
    }
  }

  std::vector<nlohmann::json> records;
  for (const auto& pass : passes) {
    records.push_back(Record(o, *pass, depth, chunk));
    records.back()["read_gbps"] = Median(read_speeds) * 1e-9;
    if (pass->ragged) records.back()["by_even"] = Median(pass->by_even);
  }
  return records;
}

int Main(int argc, char** argv) {
  Options o;
  CLI::App app("Attention kernels, alone: decode (chunk 1) and prefill (larger chunks)");
  app.add_option("--head-dim", o.head_dim);
  app.add_option("--heads", o.n_heads);
  app.add_option("--kv-heads", o.n_kv_heads);
  app.add_option("--layers", o.n_layers, "layers, each with pages of its own");
  app.add_option("-t,--threads", o.threads);
  app.add_option("-r,--repeats", o.repeats);
  app.add_option("-d,--depths", o.depths, "entries before the chunk")->delimiter(',');
  app.add_option("-c,--chunks", o.chunks, "queries at once")->delimiter(',');
  app.add_option("--codecs", o.codecs,
                 "of keys and values: q8, q8:q4 or pq8x16:q8; the first is compared with")
      ->delimiter(',');
  app.add_option("--level", o.level, "SIMD level, best if not given");
  app.add_flag("--ragged", o.ragged, "also with nine tenths of the entries in every tenth head");
  app.add_flag("--scores", o.scores, "scores of one query alone: keys are read, values are not");
  app.add_flag("--json", o.json);
  CLI11_PARSE(app, argc, argv);
  if (o.scores && (o.chunks != std::vector<int>{1} || o.ragged)) {
    std::fprintf(stderr, "--scores needs one query (-c 1) and even heads.\n");
    return 2;
  }
  if (!ForceSimdLevel(o.level)) {
    std::fprintf(stderr, "This machine has no SIMD level %s.\n", o.level.c_str());
    return 1;
  }

  Team team(o.threads);
  const ReadMemory memory(o.threads, size_t{256} << 20);
  if (!o.json) {
    std::printf("%s, %d threads, %d layers, %d/%d heads of %d\n", CurrentSimdLevel().c_str(),
                o.threads, o.n_layers, o.n_heads, o.n_kv_heads, o.head_dim);
    std::printf("%8s %6s %-15s %10s %10s %9s %9s %9s %11s %8s %9s\n", "depth", "chunk", "codecs",
                "median ms", "best ms", "GFLOP/s", "per core", "GB/s", "read GB/s", "of read",
                "by first");
  }
  nlohmann::json records = nlohmann::json::array();
  for (const int chunk : o.chunks) {
    for (const int64_t depth : o.depths) {
      for (nlohmann::json& r : Measure(o, team, memory, depth, chunk)) {
        if (!o.json) {
          const std::string name =
              r["codecs"].get<std::string>() + (r["ragged"].get<bool>() ? " ragged" : "");
          std::printf("%8ld %6d %-15s %10.3f %10.3f %9.1f %9.1f %9.2f %11.2f %7.0f%% %9.3f\n",
                      static_cast<long>(depth), chunk, name.c_str(), r["ms"].get<double>(),
                      r["min_ms"].get<double>(), r["gflops"].get<double>(),
                      r["gflops_core"].get<double>(), r["gbps"].get<double>(),
                      r["read_gbps"].get<double>(), 100 * r["bandwidth_share"].get<double>(),
                      r["by_first"].get<double>());
          std::fflush(stdout);
        }
        records.push_back(std::move(r));
      }
    }
  }
  if (o.json) std::printf("%s\n", records.dump(2).c_str());
  return 0;
}

}  // namespace
}  // namespace pith

int main(int argc, char** argv) { return pith::Main(argc, argv); }
