// pith ask: questions about a document.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/document.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/source.h"
#include "cli/verbs.h"

namespace pith::cli {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Answer {
  Generation generation;
  size_t prompt_tokens = 0;   // of all that stands before the answer
  TimeStats times;            // of what was read and written for it
  CacheStats stats;           // after it
  double first_token_s = -1;  // negative: there was none
};

TimeStats Difference(const TimeStats& after, const TimeStats& before) {
  TimeStats out;
  out.read_s = after.read_s - before.read_s;
  out.read_tokens = after.read_tokens - before.read_tokens;
  out.next_s = after.next_s - before.next_s;
  out.next_tokens = after.next_tokens - before.next_tokens;
  out.score_s = after.score_s - before.score_s;
  return out;
}

// `session` holds the document; `start` is when the work for this question began.
Answer AnswerOne(Session& session, const Conversation& conversation, const std::string& question,
                 Sampler sampler, int max_tokens, bool print, Clock::time_point start) {
  ReadPinned(session, conversation.TokensFor(question, /*from_start=*/true));
  for (Token token : session.tokens()) sampler.Accept(token);
  Answer answer;
  answer.prompt_tokens = session.tokens().size();
  const InterruptScope interrupt;
  answer.generation = Generate(session, sampler, max_tokens, [&](std::string_view text) {
    if (answer.first_token_s < 0) answer.first_token_s = Since(start);
    if (print) Print(text);
    return !interrupt.requested();
  });
  if (print) Print("\n");
  answer.stats = session.stats();
  return answer;
}

Json ToJson(const Answer& answer, const Opened& opened, const Model& model,
            const std::string& document_file, int n_threads) {
  const TimeStats& times = answer.times;
  Json out;
  out["answer"] = answer.generation.text;
  out["stop"] = StopName(answer.generation.stop);
  out["model"] = model.info().name;
  out["document"] = document_file;
  out["document_tokens"] = opened.document_tokens;
  out["prompt_tokens"] = answer.prompt_tokens;
  out["answer_tokens"] = answer.generation.tokens.size();
  out["cached"] = opened.cached;
  out["snapshot_bytes"] = nullptr;
  if (opened.snapshot_bytes > 0) out["snapshot_bytes"] = opened.snapshot_bytes;
  AddCacheStats(out, answer.stats);
  out["peak_resident_bytes"] = PeakResidentBytes();
  out["first_token_s"] = nullptr;
  if (answer.first_token_s >= 0) out["first_token_s"] = answer.first_token_s;
  out["prefill_s"] = times.read_s;
  out["prefill_tps"] = PerSecond(times.read_tokens, times.read_s);
  out["score_s"] = times.score_s;
  out["decode_s"] = times.next_s;
  out["decode_tps"] = PerSecond(times.next_tokens, times.next_s);
  AddPlan(out, opened.session.plan());
  out["threads"] = n_threads;
  return out;
}

std::string Summary(const Answer& answer, const Opened& opened) {
  const std::string source = answer.times.read_tokens > opened.document_tokens ? "read"
                             : opened.cached ? "the document was in the cache, read"
                                             : "read only";
  return fmt::format("[{} {} tokens in {}; the cache holds {} of {}, at peak {}]\n", source,
                     WithCommas(answer.times.read_tokens), FormatDuration(answer.times.read_s),
                     FormatBytes(answer.stats.kv_bytes), FormatBytes(answer.stats.kv_bytes_full),
                     FormatBytes(answer.stats.kv_bytes_peak));
}

}  // namespace

int Ask(const Verb& verb, std::span<char* const> arguments) {
  ModelFlags model_flags;
  PlanFlags plan_flags("100%");
  SamplingFlags sampling_flags;
  SourceFlags source;
  CacheFlags cache_flags;
  std::vector<std::string> questions;
  int max_tokens = 256;
  bool json = false;
  CommandLine line(verb.name, verb.summary);
  source.AddTo(line, /*required=*/true);
  line.Positionals("QUESTION", questions, "what to answer; several are answered one by one");
  line.Option("-n,--predict", max_tokens, "N", "tokens of an answer at most, -1: no limit");
  source.AddRestTo(line);
  line.Flag("--json", json, "print the answer and the measurements as JSON");
  model_flags.AddTo(line);
  plan_flags.AddTo(line);
  cache_flags.AddTo(line);
  sampling_flags.AddTo(line);
  if (!line.Parse(arguments)) return kDone;
  for (const std::string& question : questions) CheckWords(question, "question");
  const Sampler sampler = sampling_flags.Make();
  const std::unique_ptr<const SnapshotCache> cache = cache_flags.Make();
  source.Prepare(line, plan_flags);

  const Model model = model_flags.Load();
  Clock::time_point start = Clock::now();
  Opened opened = source.Open(model, model_flags, plan_flags, cache.get(), questions);
  Json all = Json::array();
  TimeStats before;  // the first answer pays for the document
  for (const std::string& question : questions) {
    std::optional<Session> branch;
    if (&question != &questions.back()) branch = opened.session.Fork();
    Session& session = branch ? *branch : opened.session;
    const TimeStats at_start = session.times();
    Answer answer =
        AnswerOne(session, opened.conversation, question, sampler, max_tokens, !json, start);
    if (answer.generation.stop == StopReason::kCancelled) return kInterrupted;
    answer.times = Difference(session.times(), &question == &questions.front() ? before : at_start);
    if (json) {
      all.push_back(
          ToJson(answer, opened, model, source.name(), model_flags.ForSession(model).n_threads));
      if (questions.size() > 1) all.back()["question"] = question;
    } else if (isatty(STDERR_FILENO) != 0) {
      fmt::print(stderr, "\n{}", Summary(answer, opened));
    }
    start = Clock::now();
  }
  if (json) PrintJson(questions.size() == 1 ? all.front() : all);
  return kDone;
}

}  // namespace pith::cli
