// pith compare: one document, read with the full and with a compressed cache, and either gone on
// with or asked about.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/atomic_file.h"
#include "base/fail.h"
#include "cli/child_process.h"
#include "cli/conversation.h"
#include "cli/document.h"
#include "cli/options.h"
#include "cli/progress_bar.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "eval/haystack.h"
#include "eval/log_probs.h"

namespace pith::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kFull[] = "full";
constexpr char kCompressed[] = "compressed";

struct CompareFlags {
  ModelFlags model;
  PlanFlags plan{"25%"};
  std::string document_file;
  int max_document_tokens = 0;
  int tail_tokens = 256;
  int predict = 64;
  std::string question;
  std::string expected;
  std::string planted;
  double depth = 50;
  std::string written_file;
  std::string template_name;
  bool json = false;
  std::string worker;  // which side this process measures; empty in the process that was called
};

// `sentence` between two of the text's own, as near to `depth` percent of it as there is a place.
std::string Planted(const std::string& text, const std::string& sentence, double depth) {
  const double wanted = depth / 100 * static_cast<double>(text.size());
  const auto distance = [&](size_t at) { return std::abs(static_cast<double>(at) - wanted); };
  size_t nearest = text.size();
  for (size_t at : SentenceStarts(text)) {
    if (distance(at) < distance(nearest)) nearest = at;
  }
  const std::string before = nearest == text.size() ? " " : "";
  return text.substr(0, nearest) + before + sentence + " " + text.substr(nearest);
}

std::vector<Token> FileTokens(const CompareFlags& flags, const Model& model) {
  std::vector<Token> tokens = model.tokenizer().Encode(ReadDocument(flags.document_file));
  const size_t most = static_cast<size_t>(flags.max_document_tokens);
  if (most > 0 && tokens.size() > most) tokens.resize(most);
  return tokens;
}

// What is read: the file, or its first tokens, and what is to be planted in it.
std::string DocumentText(const CompareFlags& flags, const Model& model) {
  const std::string text = model.tokenizer().Decode(FileTokens(flags, model));
  return flags.planted.empty() ? text : Planted(text, flags.planted, flags.depth);
}

// What a side reads, in the order it is read.
struct Parts {
  std::vector<Token> before;  // never evicted
  std::vector<Token> document;
  std::vector<Token> after;  // the question, never evicted, or text whose perplexity is measured

  size_t size() const { return before.size() + document.size() + after.size(); }
};

Parts PartsOf(const CompareFlags& flags, const Model& model) {
  const Tokenizer& tokenizer = model.tokenizer();
  Parts parts;
  parts.document = flags.planted.empty() ? FileTokens(flags, model)
                                         : tokenizer.Encode(DocumentText(flags, model));
  if (!flags.question.empty()) {
    Conversation conversation =
        AsUsage([&] { return Conversation(model, flags.template_name, ""); });
    conversation.FollowDocument();
    parts.before = conversation.BeforeDocument();
    parts.after = conversation.TokensFor(flags.question, /*from_start=*/true);
    return parts;
  }
  if (tokenizer.add_bos() && tokenizer.bos() >= 0) {
    parts.document.insert(parts.document.begin(), tokenizer.bos());
  }
  const size_t tail = static_cast<size_t>(flags.tail_tokens);
  if (parts.document.size() <= tail) {
    Fail(ErrorCode::kInvalidArgument,
         "{} has {} tokens, expected more than the {} whose perplexity is measured (--tail)",
         flags.document_file, parts.document.size(), flags.tail_tokens);
  }
  parts.after.assign(parts.document.end() - flags.tail_tokens, parts.document.end());
  parts.document.resize(parts.document.size() - tail);
  return parts;
}

void CheckFits(const CompareFlags& flags, const Parts& parts, const SessionOptions& options,
               const Model& model) {
  const int64_t n_ctx = options.n_ctx > 0 ? options.n_ctx : model.info().n_ctx_train;
  const int64_t needed = static_cast<int64_t>(parts.size()) + flags.predict;
  if (needed > n_ctx) {
    Fail(ErrorCode::kInvalidArgument,
         "{} has {} tokens{} and {} are to be generated, but the context holds {} (--tokens reads "
         "only a part)",
         flags.document_file, parts.size(), flags.question.empty() ? "" : " with the question",
         flags.predict, n_ctx);
  }
}

// Perplexity of the last `tail` tokens, read with the logits that foretell them.
double ReadTail(Session& session, std::span<const Token> tail) {
  double sum = NegativeLogLikelihood(session.logits(), tail.front());
  size_t next = 1;
  ReadOptions options;
  options.on_logits = [&](int64_t, std::span<const float> logits) {
    if (next < tail.size()) sum += NegativeLogLikelihood(logits, tail[next++]);
  };
  session.Read(tail, options);
  return std::exp(sum / static_cast<double>(tail.size()));
}

// One side, in a process of its own so that its peak of memory is its own.
int Work(const CompareFlags& flags) {
  const Model model = flags.model.Load();
  const SessionOptions options = flags.model.ForSession(model);
  const Plan plan = flags.worker == kFull ? Plan() : flags.plan.ForModel(model, flags.model.File());
  const Parts parts = PartsOf(flags, model);
  Session session = MakeSession(model, plan, options);

  if (!parts.before.empty()) ReadPinned(session, parts.before);
  ReadWithProgress(session, parts.document,
                   flags.worker == kFull ? "full cache" : "keep " + plan.keep.ToString());
  const TimeStats read = session.times();
  double perplexity = 0;
  if (flags.question.empty()) {
    perplexity = ReadTail(session, parts.after);
  } else {
    ReadPinned(session, parts.after);
  }
  const CacheStats after_reading = session.stats();
  const TimeStats before_decode = session.times();
  Sampler greedy{SamplingOptions{}};
  const Generation generation = Generate(session, greedy, flags.predict);
  const TimeStats decode = session.times();

  Json out;
  AddPlan(out, plan);
  AddCacheStats(out, after_reading);
  out["peak_resident_bytes"] = PeakResidentBytes();
  out["prefill_s"] = read.read_s;
  out["prefill_tps"] = PerSecond(read.read_tokens, read.read_s);
  out["score_s"] = read.score_s;
  out["decode_tps"] = PerSecond(decode.next_tokens - before_decode.next_tokens,
                                decode.next_s - before_decode.next_s);
  if (flags.question.empty()) {
    out["perplexity"] = perplexity;
    out["perplexity_tokens"] = flags.tail_tokens;
  }
  out["text"] = generation.text;
  out["text_tokens"] = generation.tokens.size();
  out["threads"] = options.n_threads;
  PrintJson(out);
  return kDone;
}

// Nothing if the worker failed; it has said why.
std::optional<Json> RunWorker(const char* side, std::span<char* const> arguments, int& exit_code) {
  std::vector<std::string> all = {"compare", "--worker", side};
  all.insert(all.end(), arguments.begin(), arguments.end());
  const ChildResult result = RunPith(all);
  exit_code = result.exit_code;
  if (exit_code != kDone) return std::nullopt;
  return Json::parse(result.output);
}

std::string Row(const char* name, const std::string& full, const std::string& compressed,
                const std::string& note = {}) {
  std::string row = fmt::format("{:<28}{:>14}{:>14}  {}", name, full, compressed, note);
  return row.substr(0, row.find_last_not_of(' ') + 1) + "\n";
}

// "3.9x less", "1.2x more"
std::string Ratio(double full, double compressed, const char* more, const char* less) {
  if (!(full > 0) || !(compressed > 0)) return {};
  return full >= compressed ? fmt::format("{:.1f}x {}", full / compressed, less)
                            : fmt::format("{:.1f}x {}", compressed / full, more);
}

std::string Table(const Json& full, const Json& compressed) {
  const auto count = [](const Json& side, const char* key) {
    return WithCommas(side[key].get<int64_t>());
  };
  const auto bytes = [](const Json& side, const char* key) {
    return FormatBytes(side[key].get<uint64_t>());
  };
  const auto number = [](const Json& side, const char* key, int digits) {
    return fmt::format("{:.{}f}", side[key].get<double>(), digits);
  };
  const auto seconds = [](const Json& side, bool judging) {
    const double score_s = side["score_s"].get<double>();
    return fmt::format("{:.1f}", judging ? score_s : side["prefill_s"].get<double>() - score_s);
  };
  const auto ratio = [&](const char* key, const char* more, const char* less) {
    return Ratio(full[key].get<double>(), compressed[key].get<double>(), more, less);
  };
  std::string table =
      Row("", "full cache", fmt::format("keep {}", compressed["keep"].get<std::string>()));
  table += Row("tokens read", count(full, "tokens"), count(compressed, "tokens"));
  table += Row("entries kept", count(full, "entries"), count(compressed, "entries"),
               ratio("entries", "more", "fewer"));
  table += Row("KV memory now", bytes(full, "kv_bytes"), bytes(compressed, "kv_bytes"),
               ratio("kv_bytes", "more", "less"));
  table += Row("KV memory at peak", bytes(full, "kv_bytes_peak"),
               bytes(compressed, "kv_bytes_peak"), ratio("kv_bytes_peak", "more", "less"));
  table +=
      Row("peak resident memory", bytes(full, "peak_resident_bytes"),
          bytes(compressed, "peak_resident_bytes"), ratio("peak_resident_bytes", "more", "less"));
  table += Row("reading, seconds", seconds(full, false), seconds(compressed, false));
  if (compressed["score_s"].get<double>() > 0) {
    table += Row("judging, seconds", seconds(full, true), seconds(compressed, true));
  }
  table += Row("prefill, tokens/s", number(full, "prefill_tps", 1),
               number(compressed, "prefill_tps", 1), ratio("prefill_tps", "faster", "slower"));
  table += Row("decode, tokens/s", number(full, "decode_tps", 1),
               number(compressed, "decode_tps", 1), ratio("decode_tps", "faster", "slower"));
  if (full.contains("perplexity")) {
    table += Row(fmt::format("perplexity, last {}", full["perplexity_tokens"].get<int>()).c_str(),
                 number(full, "perplexity", 2), number(compressed, "perplexity", 2));
  }
  return table;
}

std::string Words(const CompareFlags& flags, const Plan& plan, const Json& full,
                  const Json& compressed) {
  const std::string full_text = full["text"].get<std::string>();
  const std::string text = compressed["text"].get<std::string>();
  const std::string kept = fmt::format("ith {} kept by {}", plan.keep.ToString(), plan.scorer);
  if (flags.question.empty()) {
    return fmt::format("\nWith the full cache it goes on:\n{}\n\nW{}:\n{}\n", full_text, kept,
                       text);
  }
  return fmt::format("\nQuestion: {}\n\nAnswer with the full cache:\n{}\n\nAnswer w{}:\n{}\n",
                     flags.question, full_text, kept, text);
}

Json ToJson(const CompareFlags& flags, const Json& full, const Json& compressed) {
  Json out;
  out["document"] = flags.document_file;
  if (!flags.question.empty()) out["question"] = flags.question;
  out["cpu"] = CpuName();
  out[kFull] = full;
  out[kCompressed] = compressed;
  return out;
}

}  // namespace

int Compare(const Verb& verb, std::span<char* const> arguments) {
  CompareFlags flags;
  CommandLine line(verb.name, verb.summary);
  line.Positional("DOCUMENT", flags.document_file, "a text file, UTF-8");
  line.Option("--tokens", flags.max_document_tokens, "N",
              "read only the first N tokens of the document, 0: all");
  line.Option("--tail", flags.tail_tokens, "N", "tokens at the end whose perplexity is measured");
  line.Option("-n,--predict", flags.predict, "N", "tokens generated after the document");
  line.Option("--question", flags.question, "TEXT",
              "ask this about the document instead of going on with it");
  line.Option("--expect", flags.expected, "TEXT",
              "fail unless this is in what the compressed side says");
  line.Option("--plant", flags.planted, "TEXT", "a sentence to hide in the document");
  line.Option("--depth", flags.depth, "X", "where it is hidden, in percent of the document");
  line.Option("--write-document", flags.written_file, "FILE",
              "save what is read, with the sentence hidden in it");
  line.Option("--template", flags.template_name, "NAME",
              "chat template of the question, if the model's own is not known");
  line.Flag("--json", flags.json, "print both sides as JSON");
  flags.model.AddTo(line);
  flags.plan.AddTo(line);
  line.Group("");
  line.Option("--worker", flags.worker, "SIDE", "measure one side and print it as JSON");
  if (!line.Parse(arguments)) return kDone;
  if (flags.tail_tokens < 1 || flags.predict < 0 || flags.max_document_tokens < 0) {
    throw UsageError("--tail must be 1 or more, --predict and --tokens 0 or more");
  }
  for (const auto& [name, words] :
       {std::pair("--question", &flags.question), std::pair("--plant", &flags.planted)}) {
    if (line.Given(name)) CheckWords(*words, name + 2);
  }
  if (!(flags.depth >= 0 && flags.depth <= 100)) {
    throw UsageError(fmt::format("--depth is {}, expected 0 to 100", flags.depth));
  }
  flags.plan.Check();
  flags.plan.SetReading(Reading::kDocument);
  if (!flags.worker.empty()) flags.plan.BeQuiet();  // the process that was called tells
  if (flags.worker == kFull || flags.worker == kCompressed) return Work(flags);
  if (!flags.worker.empty()) throw UsageError("--worker is full or compressed");

  Plan plan;
  {
    // Everything that could be refused is refused before the first minute of reading.
    ReadDocument(flags.document_file);
    ModelOptions as_it_lies;
    as_it_lies.repack = false;
    const Model model = Model::Load(flags.model.File(), as_it_lies);
    plan = flags.plan.ForModel(model, flags.model.File());
    const SessionOptions options = flags.model.ForSession(model);
    CheckFits(flags, PartsOf(flags, model), options, model);
    MakeSession(model, plan, options);
    if (!flags.written_file.empty()) {
      const std::string text = DocumentText(flags, model);
      WriteFileAtomically(flags.written_file, std::as_bytes(std::span(text)));
    }
  }
  int exit_code = kDone;
  const std::optional<Json> full = RunWorker(kFull, arguments, exit_code);
  if (!full) return exit_code;
  const std::optional<Json> compressed = RunWorker(kCompressed, arguments, exit_code);
  if (!compressed) return exit_code;

  if (flags.json) {
    PrintJson(ToJson(flags, *full, *compressed));
  } else {
    Print(Table(*full, *compressed) + Words(flags, plan, *full, *compressed));
  }
  if ((*compressed)["text"].get<std::string>().find(flags.expected) == std::string::npos) {
    Fail(ErrorCode::kFormat, "'{}' is not in what the compressed side says", flags.expected);
  }
  return kDone;
}

}  // namespace pith::cli
