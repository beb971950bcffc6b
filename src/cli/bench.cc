// pith bench: speed and cache bytes at several depths.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <utility>

#include "attention/attention.h"
#include "base/fail.h"
#include "cli/document.h"
#include "cli/options.h"
#include "cli/progress_bar.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "engine/synthetic_read.h"

namespace pith::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxSessions = 1024;

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Seconds and bytes are those of all sessions together.
struct Record {
  int n_sessions = 1;
  int64_t depth = 0;
  int64_t synthetic = 0;      // tokens of the depth that were made up instead of read
  int64_t segment_start = 0;  // the tokens [segment_start, segment_end) were read at once
  int64_t segment_end = 0;
  double prefill_s = 0;
  double prefill_attention_s = 0;
  double prefill_judge_s = 0;
  double prefill_score_s = 0;
  double prefill_settle_s = 0;
  std::vector<double> decode_s;  // of each step, sorted; the last one reaches the depth
  double decode_attention_s = 0;
  double decode_judge_s = 0;
  double decode_settle_s = 0;
  CacheStats stats;
  uint64_t peak_resident_bytes = 0;  // of the process so far
};

double Median(const std::vector<double>& sorted) {
  const size_t middle = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

std::vector<int64_t> ParseDepths(const std::vector<std::string>& texts, int n_decode) {
  std::vector<int64_t> depths;
  for (const std::string& text : texts) {
    int64_t depth = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), depth);
    if (error != std::errc() || end != text.data() + text.size() || depth < 1) {
      throw UsageError(fmt::format("--depth '{}' is not a number of tokens", text));
    }
    depths.push_back(depth);
  }
  std::sort(depths.begin(), depths.end());
  depths.erase(std::unique(depths.begin(), depths.end()), depths.end());
  int64_t before = 0;
  for (int64_t depth : depths) {
    if (depth - before <= n_decode) {
      throw UsageError(fmt::format(
          "depth {} is {} tokens after the one before it, expected more than the {} of --decode",
          depth, depth - before, n_decode));
    }
    before = depth;
  }
  return depths;
}

// `count` tokens for one of `n_sessions`: those of the file, repeated, every session beginning
// elsewhere, or drawn from the vocabulary when there is none.
std::vector<Token> BenchTokens(const Model& model, const std::string& file, size_t count,
                               int session, int n_sessions) {
  const Tokenizer& tokenizer = model.tokenizer();
  std::vector<Token> tokens;
  if (!file.empty()) {
    const std::vector<Token> text = tokenizer.Encode(ReadDocument(file));
    if (text.empty()) Fail(ErrorCode::kFormat, "{} gives no tokens", file);
    const size_t begin = text.size() * session / n_sessions;
    while (tokens.size() < count) tokens.push_back(text[(begin + tokens.size()) % text.size()]);
    return tokens;
  }
  std::mt19937_64 random(static_cast<uint64_t>(session));
  while (tokens.size() < count) {
    const auto token = static_cast<Token>(random() % static_cast<uint64_t>(tokenizer.n_vocab()));
    if (!tokenizer.IsEndOfGeneration(token)) tokens.push_back(token);
  }
  return tokens;
}

// Sessions that read their own tokens, one after another, and then decode together.
struct Readers {
  std::vector<Session> sessions;
  std::vector<std::vector<Token>> tokens;  // of each
  Batch batch;

  void Next(size_t at) {
    if (sessions.size() == 1) {
      sessions[0].Next(tokens[0][at]);
      return;
    }
    std::vector<Session*> all;
    std::vector<Token> next;
    for (size_t i = 0; i < sessions.size(); ++i) {
      all.push_back(&sessions[i]);
      next.push_back(tokens[i][at]);
    }
    batch.Next(all, next);
  }

  TimeStats times() const {
    TimeStats sum;
    for (const Session& session : sessions) {
      const TimeStats times = session.times();
      sum.attention_s += times.attention_s;
      sum.judge_s += times.judge_s;
      sum.score_s += times.score_s;
      sum.settle_s += times.settle_s;
    }
    return sum;
  }

  CacheStats stats() const {
    CacheStats sum;
    for (const Session& session : sessions) {
      const CacheStats stats = session.stats();
      sum.tokens += stats.tokens;
      sum.entries += stats.entries;
      sum.entries_full += stats.entries_full;
      sum.kv_bytes += stats.kv_bytes;
      sum.kv_bytes_peak += stats.kv_bytes_peak;
      sum.kv_bytes_shared += stats.kv_bytes_shared;
      sum.kv_bytes_full += stats.kv_bytes_full;
      sum.tiers.resize(stats.tiers.size());  // the same in all
      for (size_t t = 0; t < stats.tiers.size(); ++t) {
        const TierStats before = std::exchange(sum.tiers[t], stats.tiers[t]);
        sum.tiers[t].entries += before.entries;
        sum.tiers[t].page_bytes += before.page_bytes;
        sum.tiers[t].codebook_bytes += before.codebook_bytes;
      }
    }
    return sum;
  }
};

// Reads on to `depth`. The decode steps are the last tokens on the way to it, so that the next
// segment starts at exactly this depth and a depth may be the model's whole context.
//
// With `segment`, only so many tokens before the decode steps are read and all before them made up.
Record Measure(Readers& readers, int64_t depth, int n_decode, std::optional<int> segment) {
  Record record;
  record.n_sessions = static_cast<int>(readers.sessions.size());
  record.depth = depth;
  record.segment_end = depth - n_decode;
  const int64_t n_read = readers.sessions[0].n_read();
  if (segment) {
    record.synthetic = std::max<int64_t>(0, record.segment_end - *segment - n_read);
    for (int i = 0; i < record.n_sessions; ++i) {
      const uint64_t seed = static_cast<uint64_t>(depth) + (static_cast<uint64_t>(i) << 32);
      ReadSynthetic(readers.sessions[i], record.synthetic, seed);
    }
  }
  record.segment_start = n_read + record.synthetic;
  const TimeStats before = readers.times();
  for (int i = 0; i < record.n_sessions; ++i) {
    ProgressBar bar("reading", "tokens");
    ReadOptions options;
    options.progress = [&](int64_t done, int64_t) {
      bar.Show(record.segment_start + done, record.segment_end);
      return true;
    };
    const auto start = Clock::now();
    readers.sessions[i].Read(
        std::span(readers.tokens[i])
            .subspan(static_cast<size_t>(record.segment_start),
                     static_cast<size_t>(record.segment_end - record.segment_start)),
        options);
    record.prefill_s += Since(start);
  }
  const TimeStats read = readers.times();
  record.prefill_attention_s = read.attention_s - before.attention_s;
  record.prefill_judge_s = read.judge_s - before.judge_s;
  record.prefill_score_s = read.score_s - before.score_s;
  record.prefill_settle_s = read.settle_s - before.settle_s;
  for (int64_t at = record.segment_end; at < depth; ++at) {
    const auto start = Clock::now();
    readers.Next(static_cast<size_t>(at));
    record.decode_s.push_back(Since(start));
  }
  const TimeStats decoded = readers.times();
  record.decode_attention_s = decoded.attention_s - read.attention_s;
  record.decode_judge_s = decoded.judge_s - read.judge_s;
  record.decode_settle_s = decoded.settle_s - read.settle_s;
  std::sort(record.decode_s.begin(), record.decode_s.end());
  record.stats = readers.stats();
  record.peak_resident_bytes = PeakResidentBytes();
  return record;
}

double DecodeTokensPerSecond(const Record& record) {
  return record.n_sessions / Median(record.decode_s);
}

// Multiplications and additions that reading a segment takes in one session: the matrices of all
// layers, attention if nothing were evicted, and a surrogate that judges from the hidden state.
struct Flops {
  double matrices = 0;
  double attention = 0;
  double judging = 0;
};

Flops SegmentFlops(const Record& record, const Plan& plan, const ModelInfo& info) {
  const auto begin = static_cast<double>(record.segment_start);
  const auto end = static_cast<double>(record.segment_end);
  const double n_embd = info.n_embd, n_kv_heads = info.n_kv_heads;
  const double heads = 2.0 * (info.n_heads + info.n_kv_heads);
  const double per_token = 2.0 * info.n_layers * n_embd;
  Flops flops;
  flops.matrices = (end - begin) * per_token * (heads * info.head_dim + 3.0 * info.n_ff);
  flops.attention = 4.0 * info.n_layers * info.n_heads * info.head_dim *
                    (end * (end + 1) - begin * (begin + 1)) / 2;
  if (plan.keep.kind == Keep::Kind::kAll) return flops;
  double weights = 0;
  if (plan.scorer == "kvzap" && plan.calibration && plan.calibration->kvzap) {
    const double n_hidden = plan.calibration->kvzap->n_hidden;
    weights = n_hidden > 0 ? n_hidden * (n_embd + n_kv_heads) : n_embd * n_kv_heads;
  } else if (plan.scorer == "kvzap+") {  // two maps, and the norms of key and value
    weights = 2 * n_kv_heads * (n_embd + 2.0 * info.head_dim);
  }
  flops.judging = (end - begin) * 2.0 * (info.n_layers - plan.skip_layers) * weights;
  return flops;
}

nlohmann::ordered_json ToJson(const Record& record, const Plan& plan, const Model& model,
                              const SessionOptions& options) {
  const auto per_step_ms = [&](double seconds) {
    return 1e3 * seconds / static_cast<double>(record.decode_s.size());
  };
  const int64_t read = record.n_sessions * (record.segment_end - record.segment_start);
  nlohmann::ordered_json out;
  out["model"] = model.info().name;
  out["weight_type"] = model.info().weight_type;
  out["depth"] = record.depth;
  out["sessions"] = record.n_sessions;
  out["synthetic"] = record.synthetic;
  out["segment"] = {record.segment_start, record.segment_end};
  const Flops flops = SegmentFlops(record, plan, model.info());
  out["matrix_flops"] = record.n_sessions * flops.matrices;
  out["attention_flops"] = record.n_sessions * flops.attention;
  out["judge_flops"] = record.n_sessions * flops.judging;
  out["prefill_tps"] = PerSecond(read, record.prefill_s);
  out["prefill_s"] = record.prefill_s;
  out["prefill_attention_s"] = record.prefill_attention_s;
  out["prefill_judge_s"] = record.prefill_judge_s;
  out["score_s"] = record.prefill_score_s;
  out["prefill_settle_s"] = record.prefill_settle_s;
  out["decode_tps"] = DecodeTokensPerSecond(record);
  out["decode_ms"] = 1e3 * Median(record.decode_s);
  out["decode_ms_min"] = 1e3 * record.decode_s.front();
  out["decode_steps"] = record.decode_s.size();
  out["attention_ms"] = per_step_ms(record.decode_attention_s);
  out["judge_ms"] = per_step_ms(record.decode_judge_s);
  out["settle_ms"] = per_step_ms(record.decode_settle_s);
  AddCacheStats(out, record.stats);
  out["peak_resident_bytes"] = record.peak_resident_bytes;
  AddPlan(out, plan);
  out["batch"] = options.n_batch;
  out["threads"] = options.n_threads;
  out["simd"] = CurrentSimdLevel();
  out["cpu"] = CpuName();
  return out;
}

std::string TableRow(const Record& record, const Plan& plan) {
  const int64_t read = record.n_sessions * (record.segment_end - record.segment_start);
  return fmt::format(
      "{:>8}  {:>8}  {:>15}  {:>11.1f}  {:>10.1f}  {:>9.2f}  {:>12.2f}  {:>10}  {:>10}\n",
      WithCommas(record.depth), plan.keep.ToString(),
      fmt::format("{}-{}", WithCommas(record.segment_start), WithCommas(record.segment_end)),
      PerSecond(read, record.prefill_s), DecodeTokensPerSecond(record),
      1e3 * Median(record.decode_s),
      1e3 * record.decode_attention_s / static_cast<double>(record.decode_s.size()),
      FormatBytes(record.stats.kv_bytes), FormatBytes(record.stats.kv_bytes_full));
}

}  // namespace

int Bench(const Verb& verb, std::span<char* const> arguments) {
  ModelFlags model_flags;
  PlanFlags plan_flags;
  std::vector<std::string> depth_texts = {"512", "2048", "8192"};
  std::vector<std::string> keeps = {"100%"};
  std::string file;
  int n_decode = 24;
  int n_sessions = 1;
  bool synthetic = false;
  int segment = 0;
  bool json = false;
  CommandLine line(verb.name, verb.summary);
  line.List("-d,--depth", depth_texts, "N,...", "tokens in the context when speed is measured");
  line.Option("--decode", n_decode, "N", "steps of generation measured at each depth");
  line.Option("--sessions", n_sessions, "N",
              "sessions, each with its own tokens, that decode together");
  line.Option("-f,--file", file, "FILE", "a text to read, repeated (default: random tokens)");
  line.Flag("--synthetic", synthetic,
            "fill the cache with made-up entries, and read only the last --segment tokens before "
            "each depth");
  line.Option("--segment", segment, "N", "for --synthetic (default: one batch)");
  line.Flag("--json", json, "print a list of records");
  model_flags.AddTo(line);
  plan_flags.AddTo(line, keeps);
  if (!line.Parse(arguments)) return kDone;
  if (n_decode < 1) throw UsageError(fmt::format("--decode is {}, expected 1 or more", n_decode));
  if (segment < 0 || (segment > 0 && !synthetic)) {
    throw UsageError(fmt::format("--segment is {}, expected 1 or more and --synthetic", segment));
  }
  if (n_sessions < 1 || n_sessions > kMaxSessions) {
    throw UsageError(fmt::format("--sessions is {}, expected 1 to {}", n_sessions, kMaxSessions));
  }
  const std::vector<int64_t> depths = ParseDepths(depth_texts, n_decode);
  for (const std::string& keep : keeps) plan_flags.Check(keep);

  const Model model = model_flags.Load();
  const SessionOptions options = model_flags.ForSession(model);
  if (segment == 0) segment = options.n_batch;
  const int64_t n_ctx = options.n_ctx > 0 ? options.n_ctx : model.info().n_ctx_train;
  if (depths.back() > n_ctx) {
    throw UsageError(
        fmt::format("depth {} is more than the context of {} tokens", depths.back(), n_ctx));
  }
  std::vector<std::vector<Token>> tokens;
  for (int i = 0; i < n_sessions; ++i) {
    tokens.push_back(BenchTokens(model, file, static_cast<size_t>(depths.back()), i, n_sessions));
  }
  {  // the weights come into memory
    Session first = MakeSession(model, {}, options);
    first.Read(std::span(tokens[0]).first(std::min<size_t>(tokens[0].size(), 32)));
  }
  nlohmann::ordered_json records = nlohmann::ordered_json::array();
  if (!json) {
    Print(fmt::format(
        "{}, {} threads, {}, {}\n{}{}\n{:>8}  {:>8}  {:>15}  {:>11}  {:>10}  {:>9}  {:>12}  "
        "{:>10}  {:>10}\n",
        model.info().name, options.n_threads, CurrentSimdLevel(), CpuName(),
        synthetic ? "entries before the segment read are made up\n" : "",
        n_sessions > 1 ? fmt::format("{} sessions decode together\n", n_sessions) : "", "depth",
        "keep", "segment read", "prefill t/s", "decode t/s", "decode ms", "attention ms", "KV",
        "KV in full"));
  }
  for (const std::string& keep : keeps) {
    const Plan plan = plan_flags.ForModel(model, model_flags.File(), keep);
    Readers readers = {{}, tokens, Batch(model, options.n_threads)};
    for (int i = 0; i < n_sessions; ++i) {
      readers.sessions.push_back(MakeSession(model, plan, options));
    }
    int64_t n_synthetic = 0;
    for (int64_t depth : depths) {
      Record record =
          Measure(readers, depth, n_decode, synthetic ? std::optional(segment) : std::nullopt);
      n_synthetic += record.synthetic;
      record.synthetic = n_synthetic;
      if (json) {
        records.push_back(ToJson(record, plan, model, options));
      } else {
        Print(TableRow(record, plan));
      }
    }
  }
  if (json) PrintJson(records);
  return kDone;
}

}  // namespace pith::cli
