#include "eval/longbench.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "engine/default_model.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

using testing::ExpectError;

const Tokenizer& Words() { return DefaultModel().tokenizer(); }

PromptFrame ChatFrame() {
  return FrameOf(ChatTemplate::FromSource(DefaultModel().info().chat_template));
}

LongBenchSample Sample(const std::string& input, const std::string& context,
                       std::vector<std::string> answers) {
  return {input, context, std::move(answers), {}};
}

std::string Line(const std::string& dataset) {
  return R"({"input": "Who?", "context": "It was \"he\".", "answers": ["he", "him"], "length": 3,)"
         R"( "dataset": ")" +
         dataset + R"(", "language": "en", "all_classes": null, "_id": "1"})";
}

TEST(LongBenchTest, ReadsItsLines) {
  std::vector<LongBenchSet> sets;
  ReadLongBench(Line("qasper") + "\n\n" + Line("hotpotqa_e") + "\n", "a.jsonl", sets);
  ReadLongBench(R"({"dataset": "trec", "input": "i", "context": "c", "answers": ["A"],)"
                R"( "all_classes": ["A", "B"]})",
                "b.jsonl", sets);
  ReadLongBench(Line("qasper"), "c.jsonl", sets);
  ASSERT_EQ(sets.size(), 3u);
  EXPECT_EQ(sets[0].dataset, "qasper");
  EXPECT_EQ(sets[0].samples.size(), 2u);
  EXPECT_EQ(sets[0].samples[0].input, "Who?");
  EXPECT_EQ(sets[0].samples[0].context, "It was \"he\".");
  EXPECT_EQ(sets[0].samples[0].answers, (std::vector<std::string>{"he", "him"}));
  EXPECT_EQ(sets[1].dataset, "hotpotqa");
  EXPECT_EQ(sets[2].samples[0].classes, (std::vector<std::string>{"A", "B"}));
}

TEST(LongBenchTest, OtherLinesAreRefused) {
  for (const auto& [lines, words] :
       {std::pair<std::string, const char*>{"{", "line 1 of x.jsonl"},
        {Line("qasper") + "\n[]", "line 2 of x.jsonl"},
        {"\n" + Line("vcsum"), "line 2 of x.jsonl is of the dataset 'vcsum'"},
        {R"({"dataset": "qasper", "input": "", "context": "", "answers": []})", "has no answer"},
        {R"({"dataset": "qasper", "input": "", "context": "", "answers": "yes"})", "no sample"},
        {R"({"dataset": "qasper", "input": "", "answers": ["yes"]})", "no sample"},
        {R"({"dataset": "trec", "input": "", "context": "", "answers": ["a"], "all_classes": 3})",
         "no sample"},
        {"{\"dataset\": \"qasper\", \"input\": \"\xff\"}", "no sample"},
        {"\n \n", "x.jsonl is empty"}}) {
    std::vector<LongBenchSet> sets;
    ExpectError(ErrorCode::kFormat, words, [&] { ReadLongBench(lines, "x.jsonl", sets); });
  }
}

TEST(LongBenchTest, TheTextIsCompressedAndTheRestIsTheQuestion) {
  const LongBenchSample sample = Sample("Who came?", "Anna came.", {"Anna"});
  const AskedTrial trial = LongBenchTrial("hotpotqa", sample, Words(), ChatFrame(), 2000);
  const std::string instruction =
      "Answer the question based on the given passages. Only give me the answer and do not output "
      "any other words.";
  EXPECT_EQ(Words().Decode(trial.context),
            instruction + "\n\nThe following are given passages.\nAnna came.");
  const std::vector<ChatMessage> messages = {
      {"user",
       Words().Decode(trial.context) + "\n\n" + instruction + "\n\nQuestion: Who came?\nAnswer:"}};
  std::string whole;
  for (const TextSegment& segment :
       ChatTemplate::FromSource(DefaultModel().info().chat_template).Render(messages)) {
    whole += segment.text;
  }
  EXPECT_EQ(Words().Decode(trial.opening, true) + Words().Decode(trial.context, true) +
                Words().Decode(trial.question, true),
            whole);
  EXPECT_EQ(trial.answer_tokens, 32);
}

TEST(LongBenchTest, ExamplesAndCodeArePlainText) {
  for (const auto& [dataset, question] : {std::pair{"trec", "\nType:"},
                                          {"triviaqa", "\n\nType:"},
                                          {"samsum", "\n\nType:"},
                                          {"lcc", "Next line of code:\n"},
                                          {"repobench-p", "Type:Next line of code:\n"}}) {
    const AskedTrial trial =
        LongBenchTrial(dataset, Sample("Type:", "text", {"a"}), Words(), ChatFrame(), 2000);
    EXPECT_TRUE(trial.opening.empty()) << dataset;
    EXPECT_EQ(Words().Decode(trial.question), question);
    // Something is left to read after compression, also where the question is known to it.
    EXPECT_LT(trial.question_words, static_cast<int>(trial.question.size()));
  }
}

TEST(LongBenchTest, TheMiddleIsCutOut) {
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "Line " + std::to_string(i) + ".\n";
  const LongBenchSample sample = Sample("", text, {"a"});
  for (int64_t length : {700, 1001, 4096}) {
    const AskedTrial trial = LongBenchTrial("gov_report", sample, Words(), ChatFrame(), length);
    EXPECT_EQ(TokensBesideContext(trial) + static_cast<int64_t>(trial.context.size()), length);
    const std::string kept = Words().Decode(trial.context);
    EXPECT_TRUE(kept.starts_with("You are given a report by a government agency.")) << kept;
    EXPECT_TRUE(kept.ends_with("Line 1999.\n"));
    EXPECT_EQ(kept.find("Line 1000."), std::string::npos);
    // As much of the prompt before the cut as after it.
    const std::vector<Token> whole = Words().Encode(
        "You are given a report by a government agency. Write a one-page summary of the "
        "report.\n\nReport:\n" +
        text);
    const auto first =
        std::mismatch(trial.context.begin(), trial.context.end(), whole.begin()).first;
    const auto before = first - trial.context.begin();
    const auto after = trial.context.end() - first + trial.question_words;
    EXPECT_NEAR(static_cast<double>(before), static_cast<double>(after), 8);
  }
  ExpectError(ErrorCode::kInvalidArgument, "gov_report",
              [&] { LongBenchTrial("gov_report", sample, Words(), ChatFrame(), 520); });
}

TEST(LongBenchTest, EveryDatasetHasItsScore) {
  LongBenchSample sample = Sample("", "", {"wrong", "the red house"});
  EXPECT_EQ(LongBenchScore("qasper", sample, "Red house."), 1) << "the best of all answers";
  EXPECT_NEAR(LongBenchScore("gov_report", sample, "the red house"), 1, 1e-7);
  EXPECT_EQ(LongBenchScore("triviaqa", sample, "\nred house\nPassage: and so on"), 1);
  EXPECT_LT(LongBenchScore("hotpotqa", sample, "\nred house\nPassage: and so on"), 1);
  sample.answers = {"LOC:city"};
  sample.classes = {"LOC:city", "NUM:date"};
  EXPECT_EQ(LongBenchScore("trec", sample, "LOC:city\nNUM:date"), 1);
  EXPECT_EQ(LongBenchScore("trec", sample, "LOC:city NUM:date"), 0.5);
  sample.answers = {"Paragraph 12"};
  EXPECT_EQ(LongBenchScore("passage_retrieval_en", sample, "Paragraph 12"), 1);
  EXPECT_EQ(LongBenchScore("passage_retrieval_en", sample, "Paragraph 1"), 0);
  sample.answers = {"7"};
  EXPECT_EQ(LongBenchScore("passage_count", sample, "7 or 8"), 0.5);
  sample.answers = {"return a"};
  EXPECT_EQ(LongBenchScore("lcc", sample, "return a\nreturn b"), 1);
}

TEST(RunLongBenchTest, AnswersUpToTheEndOfALine) {
  std::string examples;
  for (const char* animal : {"cat", "dog", "cow", "pig", "hen"}) {
    examples += std::string("Question: Is a ") + animal + " an animal?\nType: Animal\n";
  }
  LongBenchSample sample = Sample("Question: Is a goat an animal?\nType:", examples, {"Animal"});
  sample.classes = {"Animal", "Plant"};
  SessionOptions options;
  options.n_threads = 1;
  const Plan plan;
  const AskedTrial trial = LongBenchTrial("trec", sample, Words(), {}, 600);
  const ScoredOutcome outcome = RunLongBench(DefaultModel(), "trec", sample, trial, {&plan, 1},
                                             {Compression::kAfterReading, false, options})
                                    .front();
  EXPECT_EQ(outcome.score, 1) << outcome.answer;
  EXPECT_EQ(std::count(outcome.answer.begin(), outcome.answer.end(), '\n'), 1) << outcome.answer;
  EXPECT_EQ(outcome.subtask, "trec");
}

}  // namespace
}  // namespace pith
