#include "eval/longbench.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/fail.h"
#include "base/printable.h"
#include "eval/answer_score.h"

namespace pith {
namespace {

using Json = nlohmann::json;

enum class Score { kWordF1, kRougeL, kClass, kParagraph, kCount, kCode };

enum class Kind {
  kQuestion,
  kExamples,  // plain text, of whose continuation the first line counts
  kCode,      // plain text
};

struct Dataset {
  std::string_view name;
  std::string_view before;    // the text
  std::string_view question;  // after the text; {input} stands for the sample's
  int answer_tokens;
  Score score;
  Kind kind = Kind::kQuestion;
};

constexpr std::string_view kPassages =
    "Answer the question based on the given passages. Only give me the answer and do not output "
    "any "
    "other words.\n\nThe following are given passages.\n";
constexpr std::string_view kPassagesQuestion =
    "\n\nAnswer the question based on the given passages. Only give me the answer and do not "
    "output "
    "any other words.\n\nQuestion: {input}\nAnswer:";

constexpr std::array<Dataset, 16> kDatasets = {{
    {"narrativeqa",
     "You are given a story, which can be either a novel or a movie script, and a question. Answer "
     "the question as concisely as you can, using a single phrase if possible. Do not provide any "
     "explanation.\n\nStory: ",
     "\n\nNow, answer the question based on the story as concisely as you can, using a single "
     "phrase "
     "if possible. Do not provide any explanation.\n\nQuestion: {input}\n\nAnswer:",
     128, Score::kWordF1},
    {"qasper",
     "You are given a scientific article and a question. Answer the question as concisely as you "
     "can, using a single phrase or sentence if possible. If the question cannot be answered based "
     "on the information in the article, write \"unanswerable\". If the question is a yes/no "
     "question, answer \"yes\", \"no\", or \"unanswerable\". Do not provide any "
     "explanation.\n\nArticle: ",
     "\n\n Answer the question based on the above article as concisely as you can, using a single "
     "phrase or sentence if possible. If the question cannot be answered based on the information "
     "in the article, write \"unanswerable\". If the question is a yes/no question, answer "
     "\"yes\", "
     "\"no\", or \"unanswerable\". Do not provide any explanation.\n\nQuestion: {input}\n\nAnswer:",
     128, Score::kWordF1},
    {"multifieldqa_en", "Read the following text and answer briefly.\n\n",
     "\n\nNow, answer the following question based on the above text, only give me the answer and "
     "do "
     "not output any other words.\n\nQuestion: {input}\nAnswer:",
     64, Score::kWordF1},
    {"hotpotqa", kPassages, kPassagesQuestion, 32, Score::kWordF1},
    {"2wikimqa", kPassages, kPassagesQuestion, 32, Score::kWordF1},
    {"musique", kPassages, kPassagesQuestion, 32, Score::kWordF1},
    {"gov_report",
     "You are given a report by a government agency. Write a one-page summary of the "
     "report.\n\nReport:\n",
     "\n\nNow, write a one-page summary of the report.\n\nSummary:", 512, Score::kRougeL},
    {"qmsum",
     "You are given a meeting transcript and a query containing a question or instruction. Answer "
     "the query in one or more sentences.\n\nTranscript:\n",
     "\n\nNow, answer the query based on the above meeting transcript in one or more "
     "sentences.\n\nQuery: {input}\nAnswer:",
     512, Score::kRougeL},
    {"multi_news",
     "You are given several news passages. Write a one-page summary of all news. \n\nNews:\n",
     "\n\nNow, write a one-page summary of all the news.\n\nSummary:", 512, Score::kRougeL},
    {"trec",
     "Please determine the type of the question below. Here are some examples of questions.\n\n",
     "\n{input}", 64, Score::kClass, Kind::kExamples},
    {"triviaqa",
     "Answer the question based on the given passage. Only give me the answer and do not output "
     "any "
     "other words. The following are some examples.\n\n",
     "\n\n{input}", 32, Score::kWordF1, Kind::kExamples},
    {"samsum",
     "Summarize the dialogue into a few short sentences. The following are some examples.\n\n",
     "\n\n{input}", 128, Score::kRougeL, Kind::kExamples},
    {"passage_count",
     "There are some paragraphs below sourced from Wikipedia. Some of them may be duplicates. "
     "Please "
     "carefully read these paragraphs and determine how many unique paragraphs there are after "
     "removing duplicates. In other words, how many non-repeating paragraphs are there in "
     "total?\n\n",
     "\n\nPlease enter the final count of unique paragraphs after removing duplicates. The output "
     "format should only contain the number, such as 1, 2, 3, and so on.\n\nThe final answer is: ",
     32, Score::kCount},
    {"passage_retrieval_en",
     "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which "
     "paragraph "
     "the abstract is from.\n\n",
     "\n\nThe following is an abstract.\n\n{input}\n\nPlease enter the number of the paragraph "
     "that "
     "the abstract is from. The answer format must be like \"Paragraph 1\", \"Paragraph 2\", "
     "etc.\n\nThe answer is: ",
     32, Score::kParagraph},
    {"lcc", "Please complete the code given below. \n", "Next line of code:\n", 64, Score::kCode,
     Kind::kCode},
    {"repobench-p", "Please complete the code given below. \n", "{input}Next line of code:\n", 64,
     Score::kCode, Kind::kCode},
}};

const Dataset* Find(std::string_view name) {
  const auto* found = std::find_if(kDatasets.begin(), kDatasets.end(),
                                   [&](const Dataset& dataset) { return dataset.name == name; });
  return found == kDatasets.end() ? nullptr : found;
}

const Dataset& Known(std::string_view name) {
  const Dataset* dataset = Find(name);
  if (dataset == nullptr) {
    Fail(ErrorCode::kInvalidArgument, "LongBench's dataset '{}' is not known", name);
  }
  return *dataset;
}

std::string WithInput(std::string_view question, const std::string& input) {
  constexpr std::string_view kMark = "{input}";
  std::string text(question);
  const size_t at = text.find(kMark);
  if (at != std::string::npos) text.replace(at, kMark.size(), input);
  return text;
}

std::string_view WithoutFirstBreaks(std::string_view answer) {
  return answer.substr(std::min(answer.find_first_not_of('\n'), answer.size()));
}

double ScoreOne(Score score, std::string_view answer, const std::string& reference,
                std::span<const std::string> classes) {
  switch (score) {
    case Score::kWordF1:
      return WordF1(answer, reference);
    case Score::kRougeL:
      return RougeL(answer, reference);
    case Score::kClass:
      return ClassShare(answer, reference, classes);
    case Score::kParagraph:
      // "Paragraph 17"
      return NumberShare(answer, std::string_view(reference).substr(
                                     std::min(reference.find_last_of(' ') + 1, reference.size())));
    case Score::kCount:
      return NumberShare(answer, reference);
    case Score::kCode:
      return CodeSimilarity(answer, reference);
  }
  return 0;
}

}  // namespace

void ReadLongBench(std::string_view lines, const std::string& name,
                   std::vector<LongBenchSet>& sets) {
  int number = 0;
  bool is_empty = true;
  while (!lines.empty()) {
    const std::string_view line = lines.substr(0, lines.find('\n'));
    lines.remove_prefix(std::min(line.size() + 1, lines.size()));
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    std::string dataset;
    LongBenchSample sample;
    try {
      const Json json = Json::parse(line);
      json.at("dataset").get_to(dataset);
      json.at("input").get_to(sample.input);
      json.at("context").get_to(sample.context);
      json.at("answers").get_to(sample.answers);
      if (json.contains("all_classes") && !json["all_classes"].is_null()) {
        json["all_classes"].get_to(sample.classes);
      }
    } catch (const Json::exception&) {
      Fail(
          ErrorCode::kFormat,
          "line {} of {} is no sample of LongBench, expected JSON with dataset, input, context and "
          "answers",
          number, name);
    }
    if (dataset.ends_with("_e")) dataset.resize(dataset.size() - 2);
    if (Find(dataset) == nullptr) {
      std::vector<std::string_view> names;
      for (const Dataset& known : kDatasets) names.push_back(known.name);
      Fail(
          ErrorCode::kFormat,
          "line {} of {} is of the dataset '{}', expected one of the English and code datasets: {}",
          number, name, Printable(dataset), fmt::join(names, ", "));
    }
    if (sample.answers.empty()) {
      Fail(ErrorCode::kFormat, "line {} of {} has no answer, expected one or more", number, name);
    }
    auto set = std::find_if(sets.begin(), sets.end(),
                            [&](const LongBenchSet& other) { return other.dataset == dataset; });
    if (set == sets.end()) set = sets.insert(sets.end(), {dataset, {}});
    set->samples.push_back(std::move(sample));
    is_empty = false;
  }
  if (is_empty) {
    Fail(ErrorCode::kFormat, "{} is empty, expected samples of LongBench, one on a line", name);
  }
}

AskedTrial LongBenchTrial(std::string_view name, const LongBenchSample& sample,
                          const Tokenizer& tokenizer, const PromptFrame& frame, int64_t length) {
  const Dataset& dataset = Known(name);
  AskedTrial trial = AskAbout(tokenizer, dataset.kind == Kind::kQuestion ? frame : PromptFrame(),
                              WithInput(dataset.question, sample.input), "", dataset.answer_tokens);
  trial.context = tokenizer.Encode(std::string(dataset.before) + sample.context);
  const int64_t room = length - TokensBesideContext(trial);
  if (room < 1) {
    Fail(ErrorCode::kInvalidArgument, "{} tokens are too few for a question of {}, expected {}",
         length, name, TokensBesideContext(trial) + 1);
  }
  const auto n_tokens = static_cast<int64_t>(trial.context.size());
  if (n_tokens > room) {
    // Half of the prompt stays before the cut, the question being a part of the other half.
    const int64_t half = (room + trial.question_words) / 2;
    const auto begin = trial.context.begin() + std::min(half, room);
    trial.context.erase(begin, begin + (n_tokens - room));
  }
  return trial;
}

double LongBenchScore(std::string_view name, const LongBenchSample& sample,
                      std::string_view answer) {
  const Dataset& dataset = Known(name);
  if (dataset.kind == Kind::kExamples) {
    answer = WithoutFirstBreaks(answer);
    answer = answer.substr(0, answer.find('\n'));
  }
  double best = 0;
  for (const std::string& reference : sample.answers) {
    best = std::max(best, ScoreOne(dataset.score, answer, reference, sample.classes));
  }
  return best;
}

std::vector<ScoredOutcome> RunLongBench(const Model& model, std::string_view name,
                                        const LongBenchSample& sample, const AskedTrial& trial,
                                        std::span<const Plan> plans, const Asking& asking) {
  const Dataset& dataset = Known(name);
  std::vector<ScoredOutcome> outcomes;
  for (Answered& answered : AskPlans(model, trial, plans, asking, [&](std::string_view answer) {
         return dataset.kind == Kind::kExamples &&
                WithoutFirstBreaks(answer).find('\n') != std::string_view::npos;
       })) {
    ScoredOutcome& outcome = outcomes.emplace_back();
    static_cast<Answered&>(outcome) = std::move(answered);
    outcome.score = LongBenchScore(name, sample, outcome.answer);
    outcome.subtask = name;
    outcome.references = sample.answers;
  }
  return outcomes;
}

}  // namespace pith
