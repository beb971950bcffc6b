// pith run: a chat on a terminal, or one prompt and its answer.
#include <fmt/format.h>
#include <unistd.h>

#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/fail.h"
#include "cli/document.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/source.h"
#include "cli/verbs.h"

namespace pith::cli {
namespace {

struct RunFlags {
  ModelFlags model;
  PlanFlags plan{"100%"};
  SamplingFlags sampling;
  SourceFlags source;
  CacheFlags cache;
  std::string prompt;
  std::string file;
  int max_tokens = 1024;
  bool json = false;
};

// The prompt that the flags or a pipe give; nothing when there is to be a chat.
std::optional<std::string> OneShotPrompt(const CommandLine& line, const RunFlags& flags) {
  if (line.Given("--prompt") && line.Given("--file")) {
    throw UsageError("give --prompt or --file, not both");
  }
  if (line.Given("--prompt")) {
    CheckWords(flags.prompt, "prompt");
    return flags.prompt;
  }
  if (line.Given("--file")) {
    if (flags.file.empty()) throw UsageError("--file has no name");
    return ReadDocument(flags.file);
  }
  if (isatty(STDIN_FILENO) == 0) return ReadStandardInput();
  if (flags.json) throw UsageError("--json needs a prompt: -p TEXT, -f FILE or standard input");
  return std::nullopt;
}

// What is said after a document stays whole; without one it is compressed like any text.
void ReadMessage(const RunFlags& flags, Session& session, std::span<const Token> tokens) {
  if (flags.source.given()) {
    ReadPinned(session, tokens);
  } else {
    ReadWithProgress(session, tokens);
  }
}

int AnswerOnce(const RunFlags& flags, const std::string& prompt, const Conversation& conversation,
               Session& session, Sampler& sampler) {
  const std::vector<Token> tokens = conversation.TokensFor(prompt, /*from_start=*/true);
  CheckFitsContext(session, tokens.size(), "the prompt");
  ReadMessage(flags, session, tokens);
  const size_t prompt_tokens = session.tokens().size();
  for (Token token : session.tokens()) sampler.Accept(token);
  const InterruptScope interrupt;
  const Generation answer =
      Generate(session, sampler, flags.max_tokens, [&](std::string_view text) {
        if (!flags.json) Print(text);
        return !interrupt.requested();
      });
  if (!flags.json) Print("\n");
  if (answer.stop == StopReason::kCancelled) return kInterrupted;
  if (flags.json) {
    const TimeStats times = session.times();
    nlohmann::ordered_json out;
    out["answer"] = answer.text;
    out["stop"] = StopName(answer.stop);
    out["model"] = session.model().info().name;
    out["prompt_tokens"] = prompt_tokens;
    out["answer_tokens"] = answer.tokens.size();
    AddCacheStats(out, session.stats());
    out["peak_resident_bytes"] = PeakResidentBytes();
    out["prefill_s"] = times.read_s;
    out["prefill_tps"] = PerSecond(times.read_tokens, times.read_s);
    out["score_s"] = times.score_s;
    out["decode_s"] = times.next_s;
    out["decode_tps"] = PerSecond(times.next_tokens, times.next_s);
    AddPlan(out, session.plan());
    PrintJson(out);
  }
  return kDone;
}

// A chat: the session keeps what was said, each turn reads what is new.
class Chat {
 public:
  // `start` is empty, or holds a document.
  Chat(const RunFlags& flags, Conversation conversation, Session start, Sampler sampler)
      : flags_(flags),
        conversation_(std::move(conversation)),
        start_(std::move(start)),
        session_(start_.Fork()),
        sampler_(std::move(sampler)) {}

  int Loop() {
    const std::string about = flags_.source.given()
                                  ? fmt::format(" has read {} ({} tokens)", flags_.source.name(),
                                                WithCommas(start_.n_read()))
                                  : std::string();
    fmt::print("{}{}. /help says what else there is, /exit or Ctrl-D ends.\n",
               session_.model().info().name, about);
    for (;;) {
      const std::optional<std::string> message = Ask();
      if (!message || *message == "/exit" || *message == "/quit") return kDone;
      if (message->find_first_not_of(" \t\r\n") == std::string::npos) continue;
      if (message->starts_with('/') && Command(*message)) continue;
      try {
        Answer(*message);
      } catch (const Error& error) {
        fmt::print(stderr, "pith: {}\n", error.what());
        // What was read of a turn that failed cannot be taken back: read the others again.
        stale_ = session_.n_read() != read_before_turn_;
      }
    }
  }

 private:
  // Nothing at the end of input. A backslash at the end of a line goes on in the next.
  std::optional<std::string> Ask() {
    const PromptScope leave_on_interrupt;
    std::string message;
    for (const char* prompt = "\n> ";; prompt = "... ") {
      Print(prompt);
      std::string line;
      if (!std::getline(std::cin, line)) {
        Print("\n");
        return std::nullopt;
      }
      const bool more = line.ends_with('\\');
      if (more) line.back() = '\n';
      message += line;
      if (!more) return message;
    }
  }

  // Whether it was one; a path such as "/usr" is a message.
  bool Command(const std::string& message) {
    if (message == "/clear") {
      conversation_.Clear();
      stale_ = session_.n_read() > start_.n_read();
    } else if (message == "/stats") {
      const CacheStats stats = session_.stats();
      const TimeStats times = session_.times();
      Print(fmt::format(
          "{} tokens of {}; {} of {} entries kept; KV {} (peak {}, full {}); read {:.1f} and "
          "wrote {:.1f} tokens/s\n",
          WithCommas(stats.tokens), WithCommas(session_.n_ctx()), WithCommas(stats.entries),
          WithCommas(stats.entries_full), FormatBytes(stats.kv_bytes),
          FormatBytes(stats.kv_bytes_peak), FormatBytes(stats.kv_bytes_full),
          PerSecond(times.read_tokens, times.read_s), PerSecond(times.next_tokens, times.next_s)));
    } else if (message == "/help") {
      Print(
          "/clear   forget the conversation\n"
          "/stats   what the cache holds\n"
          "/exit    leave (also Ctrl-D, or Ctrl-C at the prompt)\n"
          "Ctrl-C   stops an answer; a \\ at the end of a line continues it in the next\n");
    } else {
      return false;
    }
    return true;
  }

  void Answer(const std::string& message) {
    if (stale_) session_ = start_.Fork();
    stale_ = false;
    read_before_turn_ = session_.n_read();
    if (FindInvalidUtf8(message) != std::string::npos) {
      Fail(ErrorCode::kFormat, "the message is not UTF-8");
    }
    const std::vector<Token> tokens =
        conversation_.TokensFor(message, /*from_start=*/session_.n_read() == start_.n_read());
    CheckFitsContext(session_, tokens.size(), "the message");

    {
      const InterruptScope interrupt(&session_);
      try {
        ReadMessage(flags_, session_, tokens);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kCancelled) throw;
      }
      stale_ = interrupt.requested();
      if (stale_) return;
    }
    for (Token token : tokens) sampler_.Accept(token);
    const InterruptScope interrupt;
    const Generation answer =
        Generate(session_, sampler_, flags_.max_tokens, [&](std::string_view text) {
          Print(text);
          return !interrupt.requested();
        });
    Print("\n");
    if (answer.stop == StopReason::kContextFull) {
      fmt::print(stderr, "pith: the context of {} tokens is full, /clear starts anew\n",
                 session_.n_ctx());
    }
    conversation_.AddTurn(message, answer.text);
  }

  const RunFlags& flags_;
  Conversation conversation_;
  Session start_;    // of every conversation
  Session session_;  // of the one that goes on
  Sampler sampler_;
  bool stale_ = false;  // the session holds something that is not in the conversation
  int64_t read_before_turn_ = 0;
};

}  // namespace

int Run(const Verb& verb, std::span<char* const> arguments) {
  RunFlags flags;
  CommandLine line(verb.name, verb.summary);
  flags.source.AddTo(line, /*required=*/false);
  line.Option("-p,--prompt", flags.prompt, "TEXT", "answer this and exit");
  line.Option("-f,--file", flags.file, "FILE", "answer what the file says and exit");
  line.Option("-n,--predict", flags.max_tokens, "N", "tokens of an answer at most, -1: no limit");
  flags.source.AddRestTo(line);
  line.Flag("--json", flags.json, "print the answer and the measurements as JSON");
  flags.model.AddTo(line);
  flags.plan.AddTo(line);
  flags.cache.AddTo(line);
  flags.sampling.AddTo(line);
  line.Footer("\nWithout -p or -f, pith chats on a terminal and answers standard input in a pipe.");
  if (!line.Parse(arguments)) return kDone;
  Sampler sampler = flags.sampling.Make();
  const std::unique_ptr<const SnapshotCache> cache = flags.cache.Make();
  flags.source.Prepare(line, flags.plan);
  const std::optional<std::string> prompt = OneShotPrompt(line, flags);

  const Model model = flags.model.Load();
  Opened opened = [&] {
    if (flags.source.given()) {
      std::vector<std::string> questions;
      if (prompt) questions.push_back(*prompt);
      return flags.source.Open(model, flags.model, flags.plan, cache.get(), questions);
    }
    const Plan plan = flags.plan.ForModel(model, flags.model.File());
    return Opened{MakeSession(model, plan, flags.model.ForSession(model)), AsUsage([&] {
                    return Conversation(model, flags.source.template_name(),
                                        flags.source.system_message());
                  })};
  }();
  if (prompt) return AnswerOnce(flags, *prompt, opened.conversation, opened.session, sampler);
  return Chat(flags, std::move(opened.conversation), std::move(opened.session), std::move(sampler))
      .Loop();
}

}  // namespace pith::cli
