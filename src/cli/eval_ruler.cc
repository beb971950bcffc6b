// pith eval ruler: retrieval, tracing and counting in generated texts.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <xxhash.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/eval_asked.h"
#include "cli/eval_tasks.h"
#include "cli/eval_texts.h"
#include "cli/verbs.h"
#include "eval/ruler.h"

namespace pith::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// Raise it when the same seed no longer gives the same trials.
constexpr int kTaskVersion = 1;
constexpr char kCheckoutWords[] = ".deps/words";

struct RulerFlags {
  EvalFlags eval;
  AskFlags ask;
  std::vector<std::string> tasks;
  std::vector<std::string> haystack;
  std::string words;
  std::string squad;
  std::string hotpotqa;
};

// What tasks are made of, and the digests by which one is told from another.
struct Sources {
  std::optional<Haystack> essays;
  std::optional<RulerWords> words;
  std::optional<RulerDocuments> squad, hotpotqa;
  std::string words_digest, squad_digest, hotpotqa_digest;

  RulerData data() const {
    const auto pointer = [](const auto& value) { return value ? &*value : nullptr; };
    return {pointer(essays), pointer(words), pointer(squad), pointer(hotpotqa)};
  }
};

std::string Digest(const std::string& text) {
  return fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  constexpr std::string_view kSpaces = " \t\r\n";
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const size_t first = text.find_first_not_of(kSpaces, at);
    if (first < end) {
      const size_t last = text.find_last_not_of(kSpaces, end - 1);
      lines.push_back(text.substr(first, last + 1 - first));
    }
    at = end + 1;
  }
  return lines;
}

RulerWords ReadWords(fs::path folder, std::string& digest) {
  std::error_code ignored;
  if (folder.empty()) {
    folder = kCheckoutWords;
    if (!fs::is_directory(folder, ignored)) throw UsageError("which words? Give --words FOLDER");
  }
  std::string all;
  const auto read = [&](const char* file) {
    const std::string text = ReadTexts({folder / file}, "--words").front();
    all += text + '\f';
    return Lines(text);
  };
  RulerWords words;
  words.adjectives = read("adjectivelist.txt");
  words.nouns = read("nounlist.txt");
  words.verbs = read("verblist.txt");
  digest = Digest(all);
  return words;
}

// Those asked for; without --tasks the ones that need no documents, or whose documents are there.
std::vector<const RulerTaskInfo*> ChosenTasks(const RulerFlags& flags) {
  std::vector<const RulerTaskInfo*> chosen;
  const auto file_of = [&](const RulerTaskInfo& info) -> const std::string& {
    return info.documents == &RulerData::squad ? flags.squad : flags.hotpotqa;
  };
  const auto all = RulerTasks();
  for (const std::string& name : flags.tasks) {
    const auto is_it = [&](const RulerTaskInfo& info) { return info.name == name; };
    const auto found = std::find_if(all.begin(), all.end(), is_it);
    if (found == all.end()) {
      std::vector<const char*> names;
      for (const RulerTaskInfo& info : all) names.push_back(info.name);
      throw UsageError(
          fmt::format("RULER has no task '{}', only {}", name, fmt::join(names, ", ")));
    }
    if (found->documents != nullptr && file_of(*found).empty()) {
      throw UsageError(
          fmt::format("the task {} needs {} FILE", name,
                      found->documents == &RulerData::squad ? "--squad" : "--hotpotqa"));
    }
    if (std::find(chosen.begin(), chosen.end(), &*found) == chosen.end()) {
      chosen.push_back(&*found);
    }
  }
  if (!flags.tasks.empty()) return chosen;
  for (const RulerTaskInfo& info : all) {
    if (info.documents == nullptr || !file_of(info).empty()) chosen.push_back(&info);
  }
  return chosen;
}

Sources ReadSources(const RulerFlags& flags, const std::vector<const RulerTaskInfo*>& tasks) {
  Sources sources;
  for (const RulerTaskInfo* info : tasks) {
    if (info->needs_essays && !sources.essays) {
      sources.essays.emplace(ReadTexts(flags.haystack, "--haystack"));
    }
    if (info->needs_words && !sources.words) {
      sources.words = ReadWords(flags.words, sources.words_digest);
    }
    if (info->documents == &RulerData::squad) {
      const std::string text = ReadData(flags.squad);
      sources.squad = ReadSquad(text, flags.squad);
      sources.squad_digest = Digest(text);
    }
    if (info->documents == &RulerData::hotpotqa) {
      const std::string text = ReadData(flags.hotpotqa);
      sources.hotpotqa = ReadHotpotQa(text, flags.hotpotqa);
      sources.hotpotqa_digest = Digest(text);
    }
  }
  return sources;
}

Json SettingsOf(const RulerTaskInfo& info, const RulerFlags& flags, const Sources& sources,
                const Model& model, const SessionOptions& options, const PromptFrame& frame) {
  Json json = {"ruler",           kTaskVersion,   info.name, model.info().fingerprint,
               flags.eval.seed(), options.n_batch};
  if (info.needs_essays) json.push_back(sources.essays->hash());
  if (info.needs_words) json.push_back(sources.words_digest);
  if (info.documents == &RulerData::squad) json.push_back(sources.squad_digest);
  if (info.documents == &RulerData::hotpotqa) json.push_back(sources.hotpotqa_digest);
  flags.ask.AddSettings(json, frame);
  return json;
}

}  // namespace

int EvalRuler(const EvalTask& task, std::span<char* const> arguments) {
  RulerFlags flags;
  CommandLine line(fmt::format("eval {}", task.name), task.summary);
  line.List("--tasks", flags.tasks, "NAME,...",
            "some of them, as RULER calls them: niah_single_1, ..., vt, cwe, fwe, qa_1, qa_2 "
            "(default: all that need no documents, or whose documents are given)");
  line.Files("--haystack", flags.haystack,
             "text files, or folders of .txt files, to hide something in (default: " +
                 std::string(kCheckoutEssays) + " if that is there)");
  line.Option("--words", flags.words, "FOLDER",
              "adjectivelist.txt, nounlist.txt and verblist.txt, a word on a line (default: " +
                  std::string(kCheckoutWords) + " if that is there)");
  line.Option("--squad", flags.squad, "FILE", "SQuAD's JSON, for qa_1");
  line.Option("--hotpotqa", flags.hotpotqa, "FILE",
              "HotpotQA's JSON of the distractor setting, for qa_2");
  flags.ask.AddTo(line);
  flags.eval.AddTo(line, "trials of each task at each length");
  line.Footer(
      "--length counts the prompt and its answer. Scores are 0 to 100: the share of what was asked "
      "for that\nthe answer names (qa: whether it names any), in the mean over trials; intervals "
      "are a bootstrap over\nthem. The text is compressed before the question is read, unless "
      "--aware. The full cache is always\nmeasured too.");
  if (!line.Parse(arguments)) return kDone;
  flags.eval.Check();
  flags.ask.Check();
  const std::vector<const RulerTaskInfo*> chosen = ChosenTasks(flags);
  const Sources sources = ReadSources(flags, chosen);

  const Model model = flags.eval.LoadModel();
  const SessionOptions options = flags.eval.ForSession(model);
  const PromptFrame frame = flags.ask.Frame(model);
  flags.eval.CheckLengths(1, ContextOf(model, options), "the context");
  std::vector<Subtask> subtasks;
  std::vector<RulerTask> tasks;
  for (const RulerTaskInfo* info : chosen) {
    subtasks.push_back({info->name, SettingsOf(*info, flags, sources, model, options, frame),
                        flags.eval.trials()});
    const RulerTask& made =
        tasks.emplace_back(info->name, model.tokenizer(), frame, sources.data(), flags.eval.seed());
    for (int64_t length : flags.eval.Lengths()) {
      AsUsage([&] { return made.Make(flags.eval.first_trial(), length); });
    }
  }
  const std::vector<TriedPlan> plans = flags.eval.Plans(model, options);
  const Asking asking = flags.ask.How(flags.eval, plans, options);
  const auto cells = RunSubtasks<ScoredOutcome>(
      flags.eval, subtasks, plans, "ruler",
      [&](size_t subtask, int trial, int64_t length, std::span<const Plan> missing) {
        const RulerTask& one = tasks[subtask];
        return RunRuler(model, one, one.Make(trial, length), missing, asking);
      });
  PrintScores({task.name, model, flags.eval, flags.ask, options}, subtasks, cells);
  return kDone;
}

}  // namespace pith::cli
