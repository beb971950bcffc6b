#include "engine/session_impl.h"

#include <algorithm>
#include <limits>

#include "base/fail.h"
#include "base/for_each.h"
#include "engine/clock.h"
#include "engine/layer_judge.h"
#include "engine/plan_calibration.h"

namespace pith {
namespace {

// Entries above the budget that decoding lets come together before it evicts, so that choosing
// costs little per token.
constexpr int64_t kDecodeSlack = 32;

int BatchSize(int asked, int n_ctx) {
  if (asked < 1)
    Fail(ErrorCode::kInvalidArgument, "a batch of {} tokens, expected at least 1", asked);
  return std::min(asked, n_ctx);
}

int ContextSize(int asked, const ModelInfo& model) {
  if (asked < 0 || asked > model.n_ctx_train) {
    Fail(ErrorCode::kInvalidArgument, "a context of {} tokens, but the model was trained for {}",
         asked, model.n_ctx_train);
  }
  return asked > 0 ? asked : model.n_ctx_train;
}

// Before anything is allocated for it.
const Plan& Checked(const Plan& plan, const ModelInfo& model) {
  CheckPlan(plan);
  if (plan.skip_layers > model.n_layers) {
    Fail(ErrorCode::kInvalidArgument, "cannot leave {} layers whole, the model has {}",
         plan.skip_layers, model.n_layers);
  }
  return plan;
}

std::vector<TierCodecs> TiersOf(const Plan& plan, const Model& model) {
  std::optional<PqCodebooks> codebooks;
  if (!PartsOfCodecs(plan).empty() && plan.calibration) {
    plan.calibration->CheckFits(model.info());
    if (plan.calibration->codebooks) codebooks = plan.calibration->CodebooksFor(model.info());
  }
  return MakeTiers(plan.StoredTiers(), model.info().head_dim, codebooks ? &*codebooks : nullptr,
                   plan.has_codes() ? &model.impl().key_frames() : nullptr);
}

}  // namespace

Session::Impl::Impl(const Model& model_in, const Plan& plan_in, const SessionOptions& options)
    : Impl(model_in, plan_in, options, TiersOf(plan_in, model_in)) {}

Session::Impl::Impl(const Model& model_in, const Plan& plan_in, const SessionOptions& options,
                    std::vector<TierCodecs> tiers)
    : model(model_in),
      plan(Checked(plan_in, model.info())),
      n_ctx(ContextSize(options.n_ctx, model.info())),
      n_batch(BatchSize(options.n_batch, n_ctx)),
      n_threads(ThreadCount(options.n_threads)),
      cache({model.info().n_layers, model.info().n_kv_heads, model.info().head_dim},
            std::move(tiers), plan.kv_limit),
      runner_(model, n_threads),
      scorer_(MakeScorer(plan, model.info())),
      budget_(MakeBudget(plan, scorer_ && scorer_->comparable_across_heads())),
      tiers_(plan.StoredTiers()) {
  // What has no number of entries says nothing of who is best.
  tier_budget_ = budget_->name() == "threshold"
                     ? std::make_unique<ShareBudget>("global", Sharing::kAll, 0)
                     : MakeBudget(plan, scorer_ && scorer_->comparable_across_heads());
  const int64_t compressed_heads =
      int64_t{model.info().n_layers - plan.skip_layers} * model.info().n_kv_heads;
  if (compressed_heads > 0 && Steers(plan)) {
    steering.emplace(WorthQuantiles(plan), compressed_heads);
  }
  if (!options.also_judge.empty() && !EvictsNothing(plan)) {
    Fail(ErrorCode::kInvalidArgument,
         "other scorers can only judge along where nothing is evicted, but the plan keeps {}",
         plan.keep.ToString());
  }
  Needs needs = scorer_ ? scorer_->needs() : Needs();
  for (const Plan& other : options.also_judge) {
    side_judges.emplace_back(other, model.info());
    const Needs also = side_judges.back().scorer().needs();
    needs.recent_queries = std::max(needs.recent_queries, also.recent_queries);
    needs.query_moments = needs.query_moments || also.query_moments;
  }
  if (QueryMemory::IsAskedFor(needs)) {
    queries.emplace(model, plan.skip_layers, plan.sinks, needs);
  }
}

// Threads share the tokens where the scorer judges all KV heads of a token at once, otherwise the
// (KV head, token) pairs, in equal runs.
template <typename Sink>
double Session::Impl::Judge(const Scorer* scorer, int layer, const ChunkRows& rows, int thread,
                            int n_threads_now, const Sink& sink) const {
  const ModelInfo& info = model.info();
  const size_t head_dim = static_cast<size_t>(info.head_dim);
  const int n_tokens = static_cast<int>(rows.keys.rows);
  const auto slice = [&](const MatrixView<const float>& all, int kv_head, size_t first, size_t n) {
    return MatrixView<const float>{all.row(first) + kv_head * head_dim, n, head_dim, all.stride};
  };
  std::vector<float> worth;
  if (scorer != nullptr && !pinning_ && scorer->needs().hidden_states) {
    const size_t first = static_cast<size_t>(int64_t{n_tokens} * thread / n_threads_now);
    const size_t n = static_cast<size_t>(int64_t{n_tokens} * (thread + 1) / n_threads_now) - first;
    if (n == 0) return 0;
    worth.resize(info.n_kv_heads * n);
    const auto share = [&](const MatrixView<const float>& all) {
      return MatrixView<const float>{all.row(first), n, all.cols, all.stride};
    };
    const double begin = Now();
    scorer->ScoreHidden({layer, share(rows.hidden), share(rows.keys), share(rows.values)}, worth);
    const double seconds = Now() - begin;
    for (int h = 0; h < info.n_kv_heads; ++h) {
      sink(h, static_cast<int>(first), slice(rows.keys, h, first, n),
           slice(rows.values, h, first, n), std::span<const float>(worth).subspan(h * n, n));
    }
    return seconds;
  }
  double seconds = 0;
  const int64_t n_pairs = int64_t{info.n_kv_heads} * n_tokens;
  const int64_t end = n_pairs * (thread + 1) / n_threads_now;
  for (int64_t pair = n_pairs * thread / n_threads_now; pair < end;) {
    const int kv_head = static_cast<int>(pair / n_tokens);
    const int first = static_cast<int>(pair % n_tokens);
    const size_t n = static_cast<size_t>(std::min<int64_t>(n_tokens - first, end - pair));
    const auto keys = slice(rows.keys, kv_head, static_cast<size_t>(first), n);
    const auto values = slice(rows.values, kv_head, static_cast<size_t>(first), n);
    if (pinning_) {
      worth.assign(n, std::numeric_limits<float>::infinity());
    } else if (scorer != nullptr) {
      worth.resize(n);
      const auto positions = cache.ChunkPositions(layer, kv_head).subspan(first, n);
      const double begin = Now();
      scorer->Score({layer, kv_head, positions, keys, values}, worth);
      seconds += Now() - begin;
    }
    sink(kv_head, first, keys, values, std::span<const float>(worth));
    pair += static_cast<int64_t>(n);
  }
  return seconds;
}

void Session::Impl::Append(int layer, const ChunkRows& rows, int thread, int n_threads_now) {
  if (thread == 0 && hidden_tap_ && !repeat_pass_) {
    hidden_tap_(layer, static_cast<int32_t>(n_read), static_cast<int>(rows.keys.rows),
                rows.hidden.data);
  }
  const double seconds =
      Judge(Compressed(layer) ? scorer_.get() : nullptr, layer, rows, thread, n_threads_now,
            [&](int kv_head, int first, const MatrixView<const float>& keys,
                const MatrixView<const float>& values, std::span<const float> worth) {
              cache.Write(layer, kv_head, first, keys, values, worth);
            });
  // The last thread's share is never smaller than another's.
  if (thread == n_threads_now - 1) times.judge_s += seconds;
  if (!Compressed(layer) || repeat_pass_) return;
  for (SideJudge& side : side_judges) {
    if (side.repeats()) continue;  // +infinity until then, as Resize leaves it
    Judge(
        &side.scorer(), layer, rows, thread, n_threads_now,
        [&](int kv_head, int first, const MatrixView<const float>&, const MatrixView<const float>&,
            std::span<const float> worth) { side.Set(layer, kv_head, n_read + first, worth); });
  }
}

void Session::Impl::Observe(int layer, const float* q, const float* hidden, int n_tokens,
                            int thread, int n_threads_now) {
  if (thread == 0 && query_tap_) {
    query_tap_(layer, static_cast<int32_t>(n_read), n_tokens, q);
  }
  if (queries && !repeat_pass_) queries->Observe(layer, q, thread, n_threads_now);
  if (repeat_pass_) repeat_pass_->Observe(layer, q, hidden, thread, n_threads_now);
}

void Session::Impl::CheckTokens(std::span<const Token> text) const {
  const int64_t n_after = n_read + static_cast<int64_t>(text.size());
  if (n_after > n_ctx) {
    Fail(ErrorCode::kInvalidArgument,
         "{} tokens would follow {} already read, over the context of {}", text.size(), n_read,
         n_ctx);
  }
  for (const Token token : text) {
    if (token < 0 || token >= model.info().n_vocab) {
      Fail(ErrorCode::kInvalidArgument, "token {} is outside the vocabulary of {}", token,
           model.info().n_vocab);
    }
  }
}

const Graph& Session::Impl::RunAlone(std::span<const Token> chunk, int64_t first_position,
                                     Output output) {
  const Runner::Sequence sequence = {this, first_position};
  return runner_.Run({&sequence, 1}, chunk, output);
}

void Session::Impl::MakeRoom(size_t n_tokens) {
  tokens.reserve(tokens.size() + n_tokens);
  for (SideJudge& side : side_judges) side.Resize(n_read + static_cast<int64_t>(n_tokens));
  if (queries) queries->Begin(n_read, static_cast<int>(n_tokens));
}

void Session::Impl::CountAsRead(std::span<const Token> chunk) {
  n_read += static_cast<int64_t>(chunk.size());
  tokens.insert(tokens.end(), chunk.begin(), chunk.end());
  if (queries) queries->Commit();
}

int64_t Session::Impl::KeptPerHead(int64_t n_total) const {
  const ModelInfo& info = model.info();
  return EntriesPerHead(plan, n_total, int64_t{info.n_layers - plan.skip_layers} * info.n_kv_heads,
                        int64_t{plan.skip_layers} * info.n_kv_heads,
                        {cache.bytes_per_page(), cache.n_tiers() > 1 ? cache.bytes_per_page(1) : 0},
                        budget_->ragged());
}

void Session::Impl::JudgeWholeLayers() {
  if (!scorer_ || !scorer_->needs().whole_layers) return;
  if (n_read == 0 || n_whole_judged == n_read) return;
  if (queries && !queries->Suffices(scorer_->needs(), n_read)) return;
  const double begin = Now();
  JudgeLayers(*scorer_, model, plan, queries ? &*queries : nullptr, n_read, n_threads, cache);
  n_whole_judged = n_read;
  times.judge_s += Now() - begin;
}

void Session::Impl::Settle(int64_t n_total, int64_t slack) {
  if (!scorer_) return;
  double begin = Now();
  const ModelInfo& info = model.info();
  const int64_t compressed_heads = int64_t{info.n_layers - plan.skip_layers} * info.n_kv_heads;
  if (compressed_heads == 0) return;
  candidates_.clear();
  int64_t n_entries = 0;
  for (int layer = plan.skip_layers; layer < info.n_layers; ++layer) {
    for (int h = 0; h < info.n_kv_heads; ++h) {
      candidates_.push_back(cache.Entries(layer, h));
      n_entries += cache.n_entries(layer, h);
    }
  }
  const bool by_worth = plan.keep.kind == Keep::Kind::kThreshold;
  const bool is_writing = steering && slack > 0;
  if (is_writing) n_total = n_read + kSteerHorizon;
  const int64_t per_head = by_worth ? 0 : KeptPerHead(n_total);
  const bool is_due = by_worth || steering ? n_read < n_settled || n_read - n_settled >= slack
                                           : n_entries > (per_head + slack) * compressed_heads;
  if (is_due) {
    const double judge_before = times.judge_s;
    JudgeWholeLayers();
    begin += times.judge_s - judge_before;
    BudgetLimits limits;
    limits.sinks = plan.sinks;
    limits.window_begin = static_cast<int32_t>(n_read - plan.window);
    limits.total = by_worth ? n_entries : per_head * compressed_heads;
    limits.head_floor = plan.head_floor;
    limits.tau = plan.keep.tau;
    if (steering) {
      const int64_t above = static_cast<int64_t>(kSteerSlack * static_cast<double>(n_read));
      const int64_t most =
          is_writing ? (KeptPerHead(n_read) + above) * compressed_heads : limits.total;
      steering->Allocate(candidates_, limits,
                         {plan.window, std::min(n_settled, n_read), n_total - n_read, most},
                         verdicts_);
    } else {
      budget_->Allocate(candidates_, limits, verdicts_);
    }
    for (size_t i = 0; i < candidates_.size(); ++i) {
      cache.Evict(candidates_[i].layer, candidates_[i].kv_head, verdicts_[i]);
    }
    n_settled = n_read;
  }
  times.settle_s += Now() - begin;
}

void Session::Impl::StoreCodes(int64_t n_total, int64_t slack) {
  if (cache.n_tiers() == 1) return;
  if (n_read - n_stored < slack && n_settled < n_read) return;
  const double begin = Now();
  const double judge_before = times.judge_s;
  // The last first, so that nothing is encoded twice.
  for (int tier = cache.n_tiers() - 2; tier >= 0; --tier) {
    if (tiers_[tier].share > 0) MoveBelow(tier, n_total);
  }
  if (tiers_[0].share == 0) MoveExact();
  n_stored = n_read;
  times.settle_s += Now() - begin - (times.judge_s - judge_before);
}

void Session::Impl::MoveBelow(int tier, int64_t n_total) {
  const ModelInfo& info = model.info();
  candidates_.clear();
  std::vector<int32_t> begins;  // of these tiers among all entries of a head
  int64_t n_entries = 0;
  for (int layer = plan.skip_layers; layer < info.n_layers; ++layer) {
    for (int h = 0; h < info.n_kv_heads; ++h) {
      int64_t n = 0;
      for (int t = 0; t <= tier; ++t) n += cache.n_entries(layer, h, t);
      HeadEntries entries = cache.Entries(layer, h);
      begins.push_back(static_cast<int32_t>(std::ssize(entries.positions) - n));
      entries.positions = entries.positions.last(static_cast<size_t>(n));
      entries.worth = entries.worth.last(static_cast<size_t>(n));
      candidates_.push_back(entries);
      n_entries += n;
    }
  }
  BudgetLimits limits;
  limits.sinks = plan.sinks;
  limits.window_begin = static_cast<int32_t>(n_read - plan.window);
  limits.total = EntriesOfShare(plan, tiers_[tier].share, n_total) * std::ssize(candidates_);
  limits.head_floor = plan.head_floor;
  if (n_entries <= limits.total) return;
  JudgeWholeLayers();
  tier_budget_->Allocate(candidates_, limits, verdicts_);
  ForEachIndex(info.n_layers - plan.skip_layers, n_threads, [&](int layer) {
    for (int i = layer * info.n_kv_heads; i < (layer + 1) * info.n_kv_heads; ++i) {
      for (int32_t& index : verdicts_[i]) index += begins[i];
      cache.MoveDown(candidates_[i].layer, candidates_[i].kv_head, verdicts_[i], tier + 1);
    }
  });
}

void Session::Impl::MoveExact() {
  const CacheShape& shape = cache.shape();
  ForEachIndex(shape.n_layers, n_threads, [&](int layer) {
    std::vector<int32_t> left;
    for (int h = 0; h < shape.n_kv_heads; ++h) {
      const HeadEntries entries = cache.Entries(layer, h);
      const int64_t n = std::ssize(entries.positions);
      left.clear();
      for (int64_t i = n - 1; i >= n - cache.n_entries(layer, h, 0); --i) {
        const int32_t position = entries.positions[i];
        const bool stays = position < plan.sinks || position >= n_read - plan.window ||
                           entries.worth[i] == std::numeric_limits<float>::infinity();
        if (!stays) left.push_back(static_cast<int32_t>(i));
      }
      cache.MoveDown(layer, h, left, 1);
    }
  });
}

void Session::Impl::SettleNow() {
  JudgeWholeLayers();
  Settle(n_read, 0);
  StoreCodes(n_read, 0);
  cache.Trim();
}

int64_t Session::Impl::RepeatTokens(int64_t n_total) const {
  if (plan.skip_layers == model.info().n_layers) return 0;
  const int64_t n_judges =
      (Repeats() ? 1 : 0) + std::count_if(side_judges.begin(), side_judges.end(),
                                          [](const SideJudge& side) { return side.repeats(); });
  int64_t n = 0;
  for (int64_t begin = n_judged; begin < n_total; begin += kRepeatChunk) {
    n += RepeatPromptTokens(model.tokenizer(), begin, std::min(begin + kRepeatChunk, n_total),
                            begin == text_begin);
  }
  return n * n_judges;
}

std::vector<Session::Impl::RepeatJudge> Session::Impl::RepeatJudges() {
  std::vector<RepeatJudge> judges;
  if (Repeats()) {
    judges.push_back({scorer_.get(),
                      [this](int layer, int kv_head, int64_t first, std::span<const float> worth) {
                        cache.SetWorth(layer, kv_head, first, worth);
                      }});
  }
  for (SideJudge& side : side_judges) {
    if (!side.repeats()) continue;
    judges.push_back({&side.scorer(),
                      [&side](int layer, int kv_head, int64_t first, std::span<const float> worth) {
                        side.Set(layer, kv_head, first, worth);
                      }});
  }
  return judges;
}

void Session::Impl::JudgeByRepeating(const std::function<void(int64_t n_tokens)>& progress) {
  if (plan.skip_layers == model.info().n_layers) return;
  const double start = Now();
  const std::vector<RepeatJudge> judges = RepeatJudges();
  while (n_judged < n_read) {
    const int64_t end = std::min(n_judged + kRepeatChunk, n_read);
    // The first chunk of a text is whatever follows what was pinned.
    const bool is_first = n_judged == text_begin;
    const std::vector<Token> prompt =
        RepeatPrompt(model.tokenizer(), tokens, n_judged, end, is_first);
    for (const RepeatJudge& judge : judges) {
      repeat_pass_ =
          std::make_unique<RepeatPass>(model, judge.scorer->needs(), cache, plan.skip_layers,
                                       plan.sinks, n_judged, end, n_read, n_threads);
      const double attention_before = times.attention_s;
      try {
        for (size_t done = 0; done < prompt.size();) {
          const auto left = std::span(prompt).subspan(done);
          const auto chunk =
              left.first(std::min<size_t>(left.size(), static_cast<size_t>(n_batch)));
          repeat_pass_->Prepare(static_cast<int>(chunk.size()));
          RunAlone(chunk, n_read + static_cast<int64_t>(done), Output::kQueries);
          done += chunk.size();
          progress(static_cast<int64_t>(chunk.size()));
        }
      } catch (...) {
        repeat_pass_.reset();
        cache.DropFrom(static_cast<int32_t>(n_read));
        cache.Trim();
        times.score_s += Now() - start;
        throw;
      }
      times.attention_s = attention_before;
      cache.DropFrom(static_cast<int32_t>(n_read));
      repeat_pass_->Judge(*judge.scorer, judge.sink);
      repeat_pass_.reset();
    }
    n_judged = end;
  }
  times.score_s += Now() - start;
}

bool Session::Impl::ExceedsLimit(int64_t n_new) const {
  if (plan.kv_limit == 0) return false;
  const int64_t longest = n_new + std::min<int64_t>(n_new, kRepeatChunk + kPageEntries);
  const CacheShape& shape = cache.shape();
  const uint64_t pages = static_cast<uint64_t>((longest + kPageEntries - 1) / kPageEntries + 1) *
                         shape.n_layers * shape.n_kv_heads;
  return cache.allocated_bytes() + pages * cache.bytes_per_page() > plan.kv_limit;
}

void Session::Impl::TakeLogits(const Graph& graph, int64_t first_position, int64_t n_total,
                               const ReadOptions& options) {
  if (graph.output() == Output::kLastLogits) {
    logits.assign(graph.result().begin(), graph.result().end());
  } else if (graph.output() == Output::kHidden) {
    if (!head_) head_ = std::make_unique<LogitsHead>(*model.impl().weights, model.impl().hparams);
    head_->Compute(runner_.backend(), graph.result(),
                   [&](int row, std::span<const float> row_logits) {
                     options.on_logits(first_position + row, row_logits);
                     if (first_position + row + 1 == n_total) {
                       logits.assign(row_logits.begin(), row_logits.end());
                     }
                   });
  }
}

void Session::Impl::Read(std::span<const Token> text, const ReadOptions& options) {
  if (text.empty()) return;
  CheckTokens(text);
  const int64_t n_before = n_read;
  const int64_t n_total = n_read + static_cast<int64_t>(text.size());
  KeptPerHead(n_total);  // throws before anything is read
  const double begin = Now();
  const bool judges = !options.pin && RepeatTokens(n_total) > 0;
  const bool chunkwise =
      judges && (plan.chunkwise || ExceedsLimit(static_cast<int64_t>(text.size())));
  const int64_t n_work = n_total - n_before + (judges ? RepeatTokens(n_total) : 0);
  int64_t n_done = 0;
  const auto report = [&](int64_t n) {
    n_done += n;
    if (options.progress && !options.progress(std::min(n_done, n_work), n_work) &&
        n_done < n_work) {
      Fail(ErrorCode::kCancelled, "cancelled after {} tokens", n_read);
    }
  };
  pinning_ = options.pin;
  while (n_read < n_total) {
    auto chunk = text.subspan(static_cast<size_t>(n_read - n_before));
    const int64_t room = chunkwise ? n_judged + kRepeatChunk - n_read : n_batch;
    chunk = chunk.first(
        std::min<size_t>(chunk.size(), static_cast<size_t>(std::clamp<int64_t>(room, 1, n_batch))));
    const int64_t chunk_position = n_read;
    const bool is_last = chunk_position + static_cast<int64_t>(chunk.size()) == n_total;
    MakeRoom(chunk.size());
    const Graph& graph = RunAlone(chunk, n_read,
                                  options.on_logits       ? Output::kHidden
                                  : is_last               ? Output::kLastLogits
                                  : query_tap_ || queries ? Output::kQueries
                                                          : Output::kNone);
    CountAsRead(chunk);
    TakeLogits(graph, chunk_position, n_total, options);
    report(static_cast<int64_t>(chunk.size()));
    if (options.pin) continue;
    if (!judges) {
      Settle(n_total, 0);
      StoreCodes(n_total, 0);
    } else if (is_last || (chunkwise && n_read - n_judged >= kRepeatChunk)) {
      JudgeByRepeating(report);
      Settle(n_total, 0);
      StoreCodes(n_total, 0);
      cache.Trim();
    }
  }
  if (options.pin) {
    n_judged = text_begin = n_read;
  } else {
    JudgeWholeLayers();  // so that a snapshot has worths
  }
  cache.Trim();
  times.read_s += Now() - begin;
  times.read_tokens += n_total - n_before;
}

void Session::Impl::BeginNext(Token token) {
  CheckTokens({&token, 1});
  KeptPerHead(n_read + 1);  // throws before anything is read
  MakeRoom(1);
  logits.reserve(static_cast<size_t>(model.info().n_vocab));
  pinning_ = false;
}

void Session::Impl::EndNext(Token token, std::span<const float> logits_after) {
  CountAsRead({&token, 1});
  logits.assign(logits_after.begin(), logits_after.end());
  // What a repeat pass has not judged yet stays as it is until the next Read.
  if (Repeats()) return;
  Settle(n_read, kDecodeSlack);
  StoreCodes(n_read, 2 * kDecodeSlack);
}

void Session::Impl::Next(Token token) {
  const double begin = Now();
  BeginNext(token);
  EndNext(token, RunAlone({&token, 1}, n_read, Output::kLastLogits).result());
  times.next_s += Now() - begin;
  times.next_tokens += 1;
}

}  // namespace pith
