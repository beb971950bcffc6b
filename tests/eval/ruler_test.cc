#include "eval/ruler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <sstream>

#include "engine/default_model.h"
#include "eval/ruler_prompts.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

using testing::ExpectError;

int Count(std::string_view text, std::string_view part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

const Haystack& Essays() {
  static const std::vector<std::string> texts = {ReadText(PITH_TEST_TEXTS "/essays/gap.txt"),
                                                 ReadText(PITH_TEST_TEXTS "/essays/love.txt")};
  static const Haystack haystack(texts);
  return haystack;
}

// All different, of one token or two.
const RulerWords& Words() {
  static const RulerWords words = [] {
    const std::vector<std::string> short_ones = {
        "red",  "cat",  "sun",  "box",  "tree", "hand", "fish", "bird", "rain", "snow",
        "book", "door", "fire", "wind", "milk", "road", "ship", "star", "moon", "salt",
        "gold", "iron", "leaf", "rock", "sand", "hill", "lake", "farm", "ball", "bell",
        "corn", "drum", "flag", "gate", "hat",  "key",  "lamp", "map",  "nest", "ring"};
    RulerWords made;
    for (const std::string& first : short_ones) {
      made.adjectives.push_back(first);
      made.verbs.push_back(first + "ed");
      for (const std::string& second : short_ones) made.nouns.push_back(first + second);
    }
    return made;
  }();
  return words;
}

RulerDocuments Documents() {
  std::string json = R"({"data": [)";
  for (int article = 0; article < 6; ++article) {
    json += article > 0 ? ", " : "";
    json += R"({"title": "T", "paragraphs": [)";
    for (int i = 0; i < 5; ++i) {
      const std::string id = std::to_string(article) + "-" + std::to_string(i);
      std::string text = "The tower of place " + id + " is " + id + "00 feet high.";
      for (int filler = 0; filler < 3; ++filler)
        text += " Nothing else is known about place " + id + ".";
      json += (i > 0 ? ", " : "") + (R"({"context": ")" + text) +
              R"(", "qas": [{"question": "How high is the tower of place )" + id +
              R"(?", "answers": [{"text": ")" + id + R"(00 feet"}, {"text": ")" + id +
              R"(00"}], "is_impossible": false},
                 {"question": "Who built it?", "answers": [], "is_impossible": true}]})";
    }
    json += "]}";
  }
  return ReadSquad(json + "]}", "squad.json");
}

RulerDocuments Passages() {
  std::string json = "[";
  for (int i = 0; i < 60; ++i) {
    const std::string id = std::to_string(i);
    json += (i > 0 ? ", " : "") + (R"({"question": "Where was author )" + id) +
            R"( born?", "answer": "Town )" + id + R"(", "context": [["Book )" + id +
            R"(", ["It was written by author )" + id + R"(.", " It sold well."]], ["Author )" + id +
            R"(", ["Author )" + id + R"( was born in Town )" + id + R"(."]]]})";
  }
  return ReadHotpotQa(json + "]", "hotpot.json");
}

const RulerData& Data() {
  static const RulerDocuments squad = Documents();
  static const RulerDocuments hotpotqa = Passages();
  static const RulerData data = {&Essays(), &Words(), &squad, &hotpotqa};
  return data;
}

PromptFrame ChatFrame() {
  return FrameOf(ChatTemplate::FromSource(DefaultModel().info().chat_template));
}

RulerTask TaskOf(std::string_view name, uint64_t seed = 42, PromptFrame frame = ChatFrame()) {
  return {name, DefaultModel().tokenizer(), std::move(frame), Data(), seed};
}

std::string Asked(const RulerTrial& trial) {
  return DefaultModel().tokenizer().Decode(trial.question, true);
}

TEST(RulerTest, EveryTaskFillsTheLength) {
  for (const RulerTaskInfo& info : RulerTasks()) {
    const RulerTask task = TaskOf(info.name);
    // One more sentence, or word as often as it comes, would not have fitted.
    const bool has_uuids = info.name == std::string("niah_multikey_3");
    const int64_t unit = has_uuids ? 90 : info.documents != nullptr ? 70 : 30;
    for (int64_t length : {1000, 2048, 4096}) {
      if (info.documents != nullptr && length > 1000) continue;  // there are no more of them
      const RulerTrial trial = task.Make(3, length);
      const int64_t all = TokensBesideContext(trial) + static_cast<int64_t>(trial.context.size());
      EXPECT_LE(all, length) << info.name;
      EXPECT_GE(all, length - unit) << info.name;
      EXPECT_EQ(trial.answer_tokens, info.answer_tokens);
      EXPECT_EQ(DefaultModel().tokenizer().Decode(trial.context), trial.text);
    }
    ExpectError(ErrorCode::kInvalidArgument, info.name, [&] { task.Make(0, 60); });
  }
}

TEST(RulerTest, ReferencesAreInTheTextAndNotInTheQuestion) {
  for (const RulerTaskInfo& info : RulerTasks()) {
    for (int index = 0; index < 4; ++index) {
      const RulerTrial trial = TaskOf(info.name).Make(index, 1000);
      ASSERT_FALSE(trial.references.empty());
      for (const std::string& reference : trial.references) {
        EXPECT_GE(Count(trial.text, reference), 1) << info.name;
        EXPECT_EQ(Count(Asked(trial), reference), 0) << info.name;
      }
    }
  }
}

TEST(RulerTest, SeedAndIndexDecide) {
  for (const RulerTaskInfo& info : RulerTasks()) {
    const RulerTrial trial = TaskOf(info.name, 5).Make(2, 1000);
    const RulerTrial again = TaskOf(info.name, 5).Make(2, 1000);
    EXPECT_EQ(trial.text, again.text);
    EXPECT_EQ(trial.question, again.question);
    EXPECT_EQ(trial.references, again.references);
    EXPECT_NE(TaskOf(info.name, 5).Make(3, 1000).text, trial.text) << info.name;
    EXPECT_NE(TaskOf(info.name, 6).Make(2, 1000).text, trial.text) << info.name;
    const RulerTrial plain = TaskOf(info.name, 5, PromptFrame()).Make(2, 1000);
    EXPECT_EQ(plain.references, trial.references) << info.name;
    EXPECT_TRUE(plain.opening.empty());
  }
}

// A seed must mean the same trials on every machine and in every version.
TEST(RulerTest, SeedIsPinned) {
  EXPECT_EQ(TaskOf("niah_single_1").Make(0, 1000).references.front(), "5137297");
  EXPECT_EQ(TaskOf("vt").Make(0, 1000).references.front(), "KFQKD");
  EXPECT_EQ(TaskOf("fwe").Make(0, 1000).references.front(), "phgmqq");
}

TEST(RulerTest, PromptsOfNeedles) {
  const RulerTrial one = TaskOf("niah_single_2").Make(0, 800);
  const std::string value = one.references.front();
  EXPECT_EQ(one.references.size(), 1u);
  EXPECT_TRUE(
      one.text.starts_with("A special magic number is hidden within the following text. Make sure "
                           "to memorize it. I will "
                           "quiz you about the number afterwards.\n"));
  const size_t at = one.text.find(" is: " + value + ".");
  ASSERT_NE(at, std::string::npos);
  const size_t begin = one.text.rfind("for ", at) + 4;
  const std::string key = one.text.substr(begin, at - begin);
  EXPECT_EQ(Count(one.text, "One of the special magic numbers for " + key + " is: " + value + "."),
            1);
  const std::string what = "special magic number for " + key + " mentioned in the provided text";
  EXPECT_TRUE(Asked(one).starts_with("\nWhat is the " + what + "?"));
  EXPECT_TRUE(Asked(one).ends_with(" The " + what + " is"));

  const RulerTrial four = TaskOf("niah_multiquery").Make(0, 1000);
  EXPECT_EQ(four.references.size(), 4u);
  EXPECT_TRUE(four.text.starts_with("Some special magic numbers are hidden within"));
  EXPECT_TRUE(Asked(four).starts_with("\nWhat are all the special magic numbers for "));
  EXPECT_TRUE(Asked(four).ends_with(" mentioned in the provided text are"));
  EXPECT_EQ(Count(Asked(four), ", and "), 2);
}

TEST(RulerTest, NeedlesOfEveryTask) {
  struct Expected {
    const char* task;
    int needles;  // 0: many
    size_t references;
    const char* value;
  };
  for (const Expected& expected : {Expected{"niah_single_1", 1, 1, "numbers"},
                                   {"niah_single_2", 1, 1, "numbers"},
                                   {"niah_single_3", 1, 1, "uuids"},
                                   {"niah_multikey_1", 4, 1, "numbers"},
                                   {"niah_multikey_2", 0, 1, "numbers"},
                                   {"niah_multikey_3", 0, 1, "uuids"},
                                   {"niah_multivalue", 4, 4, "numbers"},
                                   {"niah_multiquery", 4, 4, "numbers"}}) {
    const RulerTrial trial = TaskOf(expected.task).Make(1, 1500);
    const int needles =
        Count(trial.text, std::string("One of the special magic ") + expected.value);
    EXPECT_TRUE(needles == expected.needles || (expected.needles == 0 && needles > 12))
        << expected.task << " has " << needles;
    EXPECT_EQ(trial.references.size(), expected.references) << expected.task;
    for (const std::string& reference : trial.references) {
      EXPECT_EQ(Count(trial.text, reference), 1) << expected.task;
      EXPECT_EQ(reference.size(), std::string(expected.value) == "uuids" ? 36u : 7u);
    }
    EXPECT_EQ(Count(trial.text, std::string(kRulerNoise)) > 20,
              std::string(expected.task) == "niah_single_1");
  }
}

TEST(RulerTest, UuidsAreOfVersion4) {
  SeededRandom random(1);
  std::set<std::string> all;
  for (int i = 0; i < 100; ++i) {
    const std::string uuid = DrawUuid(random);
    ASSERT_EQ(uuid.size(), 36u);
    for (size_t dash : {8, 13, 18, 23}) EXPECT_EQ(uuid[dash], '-');
    EXPECT_EQ(uuid[14], '4');
    EXPECT_NE(std::string("89ab").find(uuid[19]), std::string::npos);
    all.insert(uuid);
  }
  EXPECT_EQ(all.size(), 100u);
}

TEST(RulerTest, NeedlesLieAtAnyDepth) {
  double lowest = 1, highest = 0;
  for (const char* name : {"niah_single_1", "niah_single_2"}) {
    for (int index = 0; index < 30; ++index) {
      const RulerTrial trial = TaskOf(name, 9).Make(index, 700);
      const double depth = static_cast<double>(trial.text.find(trial.references[0])) /
                           static_cast<double>(trial.text.size());
      lowest = std::min(lowest, depth);
      highest = std::max(highest, depth);
    }
    EXPECT_LT(lowest, 0.25);
    EXPECT_GT(highest, 0.8);
  }
}

TEST(RulerTest, PartsAreInterleaved) {
  const std::vector<std::string> lines = {"a", "b", "c", "d"};
  EXPECT_EQ(Interleave(lines, {"1", "2", "3"}, {0, 0.5, 0.99}),
            (std::vector<std::string>{"1", "a", "b", "2", "c", "3", "d"}));
  EXPECT_EQ(Interleave({}, {"1"}, {0.3}), std::vector<std::string>{"1"});
}

TEST(RulerTest, ChainOfVariables) {
  const RulerTrial trial = TaskOf("vt").Make(0, 1200);
  const std::vector<std::string>& chain = trial.references;
  ASSERT_EQ(chain.size(), 5u);
  const std::string head = "Memorize and track the chain(s) of variable assignment hidden in the ";
  // The solved example, then the chain.
  EXPECT_EQ(Count(trial.text, head), 2);
  const std::string text = trial.text.substr(trial.text.rfind(head));
  size_t at = text.find("VAR " + chain[0] + " = ");
  ASSERT_NE(at, std::string::npos);
  const std::string value = text.substr(at + 12, 5);
  EXPECT_EQ(value.find_first_not_of("0123456789"), std::string::npos);
  for (size_t hop = 1; hop < 5; ++hop) {
    const size_t next = text.find("VAR " + chain[hop] + " = VAR " + chain[hop - 1] + " ");
    ASSERT_NE(next, std::string::npos);
    EXPECT_GT(next, at);
    at = next;
  }
  EXPECT_EQ(Count(text, "VAR"), 9);
  EXPECT_TRUE(text.ends_with("There and back again."));
  EXPECT_TRUE(
      Asked(trial).starts_with("\n\nQuestion: Find all variables that are assigned the value " +
                               value + " in the text above."));
  EXPECT_TRUE(
      Asked(trial).ends_with(" Answer: According to the chain(s) of variable assignment in "
                             "the text above, 5 variables are assgined the value " +
                             value + ", they are: "));
  const std::string example = trial.text.substr(0, trial.text.rfind(head));
  const size_t n_example = DefaultModel().tokenizer().Encode(example).size();
  EXPECT_LE(n_example, 470u);
  EXPECT_GE(n_example, 330u);
  EXPECT_EQ(Count(example, ", they are:  "), 1);
}

std::map<std::string, int> CountNumbered(const std::string& list) {
  std::map<std::string, int> counts;
  std::istringstream in(list);
  std::string number, word;
  for (int i = 1; in >> number >> word; ++i) {
    EXPECT_EQ(number, std::to_string(i) + ".");
    ++counts[word];
  }
  return counts;
}

TEST(RulerTest, CommonWords) {
  for (const auto& [length, common, others] : {std::tuple{2048, 6, 1}, std::tuple{4096, 30, 3}}) {
    const RulerTrial trial = TaskOf("cwe").Make(1, length);
    EXPECT_EQ(trial.references.size(), 10u);
    const std::set<std::string> references(trial.references.begin(), trial.references.end());
    const size_t list = trial.text.rfind("often.\n") + 7;
    const auto counts = CountNumbered(trial.text.substr(list));
    EXPECT_GT(counts.size(), 30u);
    for (const auto& [word, count] : counts) {
      EXPECT_EQ(count, references.contains(word) ? common : others) << word;
    }
    // The solved example is about other words.
    EXPECT_EQ(Count(trial.text, "What are the 10 most common words in the above list?"), 1);
    EXPECT_EQ(Count(trial.text, "most often in the list are: 1. "), 1);
    EXPECT_TRUE(Asked(trial).starts_with("\nQuestion: What are the 10 most common words"));
  }
}

TEST(RulerTest, FrequentWords) {
  const RulerTrial trial = TaskOf("fwe").Make(1, 2048);
  ASSERT_EQ(trial.references.size(), 3u);
  const std::string head = "most frequently appeared coded words. ";
  std::istringstream in(trial.text.substr(trial.text.find(head) + head.size()));
  std::map<std::string, int> counts;
  for (std::string word; in >> word;) ++counts[word];
  std::vector<std::pair<int, std::string>> ranked;
  for (const auto& [word, count] : counts) ranked.push_back({-count, word});
  std::sort(ranked.begin(), ranked.end());
  ASSERT_GT(ranked.size(), 8u);
  EXPECT_EQ(ranked[0].second, "...");
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(ranked[i + 1].second, trial.references[i]);
    EXPECT_EQ(trial.references[i].size(), 6u);
    // Zipf's law with the exponent 2.
    EXPECT_NEAR(ranked[i + 1].first * (i + 2.0) * (i + 2.0) / ranked[0].first, 1, 0.15);
  }
  EXPECT_LT(ranked[3].first, ranked[4].first);
}

TEST(RulerTest, Documents) {
  EXPECT_EQ(Data().squad->documents.size(), 30u);
  EXPECT_EQ(Data().squad->questions.size(), 30u) << "only those that can be answered";
  const RulerTrial trial = TaskOf("qa_1").Make(0, 700);
  EXPECT_EQ(trial.references.size(), 2u);
  EXPECT_TRUE(trial.text.starts_with(
      "Answer the question based on the given documents. Only give me the answer and do not output "
      "any other words.\n\nThe following are given documents.\n\nDocument 1:\n"));
  const std::string id = trial.references[1].substr(0, 3);
  EXPECT_EQ(Count(trial.text, "The tower of place " + id + " is"), 1);
  // The paragraphs of the same article come first.
  EXPECT_EQ(Count(trial.text, "The tower of place " + id.substr(0, 2)), 5);
  EXPECT_TRUE(Asked(trial).find("\n\nQuestion: How high is the tower of place " + id) !=
              std::string::npos);
  EXPECT_TRUE(Asked(trial).ends_with(" Answer:"));
  const RulerTask task = TaskOf("qa_1");
  EXPECT_EQ(task.Score("It is " + trial.references[1] + ".", trial.references), 1)
      << "any of the answers";

  EXPECT_EQ(Data().hotpotqa->documents.size(), 120u);
  const RulerTrial hops = TaskOf("qa_2").Make(0, 600);
  const std::string number = hops.references.front().substr(5);
  EXPECT_EQ(Count(hops.text,
                  "Book " + number + "\nIt was written by author " + number + ". It sold well."),
            1);
  EXPECT_EQ(Count(hops.text, "was born in " + hops.references.front() + "."), 1);
}

TEST(RulerTest, FilesOfAnotherKind) {
  for (const auto& [json, words] :
       {std::pair{"", "is not JSON (at byte 1)"},
        {"[", "is not JSON"},
        {"[]", "is not a file of SQuAD"},
        {"{}", "'data' not found"},
        {R"({"data": 3})", "is not a file of SQuAD"},
        {R"({"data": []})", "has no question"},
        {R"({"data": [{"paragraphs": [{"qas": []}]}]})", "'context' not found"},
        {R"({"data": [{"paragraphs": [{"context": "c", "qas": [{"question": 3}]}]}]})", "string"},
        {"{\"data\": [{\"paragraphs\": [{\"context\": \"\xff\", \"qas\": []}]}]}",
         "is not JSON"}}) {
    ExpectError(ErrorCode::kFormat, words, [&] { ReadSquad(json, "squad.json"); });
    ExpectError(ErrorCode::kFormat, "squad.json", [&] { ReadSquad(json, "squad.json"); });
  }
  for (const auto& [json, words] :
       {std::pair{"{\"a\": 1}", "is not a file of HotpotQA"},
        {"[]", "has no question"},
        {R"([{"question": "q", "answer": "a", "context": []}])", "has no question"},
        {R"([{"question": "q", "answer": "a", "context": [["title"]]}])", "is not a file"},
        {R"([{"question": "q", "context": []}])", "'answer' not found"}}) {
    ExpectError(ErrorCode::kFormat, words, [&] { ReadHotpotQa(json, "hotpot.json"); });
  }
}

TEST(RulerTest, WrongUse) {
  ExpectError(ErrorCode::kInvalidArgument, "'niah'", [] { TaskOf("niah"); });
  const RulerWords none = {{"a"}, {}, {"b"}};
  const RulerWords few = {{"a"}, {"b"}, {"c"}};
  const auto task = [](const char* name, const RulerWords& words) {
    return RulerTask(name, DefaultModel().tokenizer(), {}, {nullptr, &words, nullptr, nullptr}, 1);
  };
  ExpectError(ErrorCode::kInvalidArgument, "is empty", [&] { task("cwe", none); });
  ExpectError(ErrorCode::kInvalidArgument, "too few", [&] { task("cwe", few).Make(0, 2000); });
  // Every key of the other needles is the one that is asked for.
  ExpectError(ErrorCode::kInvalidArgument, "too short",
              [&] { task("niah_multikey_2", few).Make(0, 2000); });
}

SessionOptions OneThread() {
  SessionOptions options;
  options.n_threads = 1;
  return options;
}

Plan RandomPlan(double fraction) {
  Plan plan;
  plan.scorer = "random";
  plan.budget = "uniform";
  plan.window = 16;
  plan.keep.kind = Keep::Kind::kFraction;
  plan.keep.fraction = fraction;
  return plan;
}

TEST(RunRulerTest, AnswersAndEndsEarly) {
  const RulerTask task = TaskOf("niah_single_1");
  const RulerTrial trial = task.Make(0, 400);
  const std::vector<Plan> plans = {Plan(), RandomPlan(0.1)};
  const Asking asking = {Compression::kAfterReading, false, OneThread()};
  const std::vector<ScoredOutcome> outcomes = RunRuler(DefaultModel(), task, trial, plans, asking);
  ASSERT_EQ(outcomes.size(), 2u);
  for (const ScoredOutcome& outcome : outcomes) {
    EXPECT_EQ(outcome.subtask, "niah_single_1");
    EXPECT_EQ(outcome.references, trial.references);
    EXPECT_EQ(outcome.score, task.Score(outcome.answer, trial.references));
  }
  EXPECT_EQ(outcomes[0].score, 1);
  EXPECT_TRUE(outcomes[0].answer.ends_with(trial.references[0])) << outcomes[0].answer;
  EXPECT_EQ(outcomes[1].score, 0);
}

TEST(RunRulerTest, AwareReadsTheQuestionFirst) {
  const RulerTask task = TaskOf("niah_single_1");
  const RulerTrial trial = task.Make(1, 400);
  const std::vector<Plan> plans = {Plan(), RandomPlan(0.5)};
  const auto run = [&](bool aware) {
    return RunRuler(DefaultModel(), task, trial, plans,
                    {Compression::kAfterReading, aware, OneThread()});
  };
  const std::vector<ScoredOutcome> unaware = run(false);
  const std::vector<ScoredOutcome> aware = run(true);
  EXPECT_GT(trial.question_words, 10);
  const std::string words = DefaultModel().tokenizer().Decode(
      std::span(trial.question).first(static_cast<size_t>(trial.question_words)), true);
  EXPECT_TRUE(words.starts_with("\nWhat is the special magic number for ")) << words;
  EXPECT_TRUE(words.ends_with(" mentioned in the provided text?")) << words;
  for (size_t i : {0, 1}) EXPECT_EQ(aware[i].tokens, unaware[i].tokens + trial.question_words);
  EXPECT_EQ(aware[0].score, unaware[0].score);
  EXPECT_LT(aware[1].entries, aware[0].entries);
}

// More plans than answer together, each as if it were alone.
TEST(AskPlansTest, ManyPlans) {
  RulerTrial trial = TaskOf("niah_single_1").Make(2, 350);
  trial.question.resize(4);
  trial.answer_tokens = 5;
  std::vector<Plan> plans;
  for (int i = 1; i <= 10; ++i) plans.push_back(i % 3 == 0 ? Plan() : RandomPlan(0.09 * i));
  const Asking asking = {Compression::kAfterReading, false, OneThread()};
  const std::vector<Answered> together = AskPlans(DefaultModel(), trial, plans, asking);
  ASSERT_EQ(together.size(), 10u);
  for (size_t i : {5, 8}) EXPECT_EQ(together[i].answer, together[2].answer);
  for (size_t i = 0; i < plans.size(); ++i) {
    EXPECT_EQ(together[i].entries == together[i].entries_full, i % 3 == 2) << i;
    EXPECT_LE(DefaultModel().tokenizer().Encode(together[i].answer).size(), 5u);
  }
  const Answered alone = AskPlans(DefaultModel(), trial, {&plans[9], 1}, asking).front();
  EXPECT_EQ(alone.entries, together[9].entries);
  EXPECT_EQ(alone.answer, together[9].answer);
}

}  // namespace
}  // namespace pith
