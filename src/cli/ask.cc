// pith ask: a question about a document.
#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "cli/conversation.h"
#include "cli/document.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/verbs.h"

namespace pith::cli {

int Ask(const Verb& verb, std::span<char* const> arguments) {
  ModelFlags model_flags;
  PlanFlags plan_flags;
  SamplingFlags sampling_flags;
  std::string document_file;
  std::string question;
  std::string template_name;
  std::string system_message;
  int max_tokens = 256;
  bool json = false;
  CommandLine line(verb.name, verb.summary);
  line.Positional("DOCUMENT", document_file, "a text file, UTF-8");
  line.Positional("QUESTION", question, "what to answer");
  line.Option("-n,--predict", max_tokens, "N", "tokens of the answer at most, -1: no limit");
  line.Option("--system", system_message, "TEXT", "what the model is told before (also -sys)");
  line.Option("--template", template_name, "NAME",
              "chat template, if the model's own is not known: chatml, llama2, llama3, mistral, "
              "gemma, phi3, none");
  line.Flag("--json", json, "print the answer and the measurements as JSON");
  model_flags.AddTo(line);
  plan_flags.AddTo(line);
  sampling_flags.AddTo(line);
  if (!line.Parse(arguments)) return kDone;
  if (question.find_first_not_of(" \t\r\n") == std::string::npos) {
    throw UsageError("the question is empty");
  }
  plan_flags.Check();
  Sampler sampler = sampling_flags.Make();
  const std::string document = ReadDocument(document_file);

  const Model model = model_flags.Load();
  const Plan plan = plan_flags.ForModel(model, model_flags.File());
  const SessionOptions session_options = model_flags.ForSession(model);
  Session session = MakeSession(model, plan, session_options);
  const Conversation conversation =
      AsUsage([&] { return Conversation(model, template_name, system_message); });
  const std::vector<Token> prompt =
      conversation.TokensFor(document + "\n\n" + question, /*from_start=*/true);
  CheckFitsContext(session, prompt.size(), document_file + " with the question");
  ReadWithProgress(session, prompt);
  for (Token token : prompt) sampler.Accept(token);

  const InterruptScope interrupt;
  const Generation answer = Generate(session, sampler, max_tokens, [&](std::string_view text) {
    if (!json) Print(text);
    return !interrupt.requested();
  });
  if (!json) Print("\n");
  if (answer.stop == StopReason::kCancelled) return kInterrupted;

  const CacheStats stats = session.stats();
  const TimeStats times = session.times();
  if (json) {
    nlohmann::ordered_json out;
    out["answer"] = answer.text;
    out["stop"] = StopName(answer.stop);
    out["model"] = model.info().name;
    out["document"] = document_file;
    out["document_tokens"] = model.tokenizer().Encode(document).size();
    out["prompt_tokens"] = prompt.size();
    out["answer_tokens"] = answer.tokens.size();
    AddCacheStats(out, stats);
    out["peak_resident_bytes"] = PeakResidentBytes();
    out["prefill_s"] = times.read_s;
    out["prefill_tps"] = PerSecond(times.read_tokens, times.read_s);
    out["decode_s"] = times.next_s;
    out["decode_tps"] = PerSecond(times.next_tokens, times.next_s);
    AddPlan(out, plan);
    out["threads"] = session_options.n_threads;
    PrintJson(out);
  } else if (isatty(STDERR_FILENO) != 0) {
    fmt::print(stderr, "\n[read {} tokens in {}; the cache holds {} of {}, at peak {}]\n",
               WithCommas(static_cast<int64_t>(prompt.size())), FormatDuration(times.read_s),
               FormatBytes(stats.kv_bytes), FormatBytes(stats.kv_bytes_full),
               FormatBytes(stats.kv_bytes_peak));
  }
  return kDone;
}

}  // namespace pith::cli
