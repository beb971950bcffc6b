#include "eval/needle.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "engine/default_model.h"
#include "eval/answer_score.h"
#include "eval/needle_run.h"
#include "pith/error.h"

namespace pith {
namespace {

std::vector<std::string> Essays() {
  std::vector<std::string> texts;
  for (const char* name : {"gap", "love", "rss", "useful"}) {
    texts.push_back(ReadText(std::string(PITH_TEST_TEXTS) + "/essays/" + name + ".txt"));
  }
  return texts;
}

const Haystack& EssayHaystack() {
  static const Haystack haystack(Essays());
  return haystack;
}

PromptFrame ChatFrame() {
  return FrameOf(ChatTemplate::FromSource(DefaultModel().info().chat_template));
}

NeedleTask TaskOf(uint64_t seed, PromptFrame frame = ChatFrame()) {
  return {DefaultModel().tokenizer(), std::move(frame), EssayHaystack(), seed};
}

int64_t PromptTokens(const NeedleTrial& trial) {
  return static_cast<int64_t>(trial.opening.size() + trial.context.size() + trial.question.size());
}

int Count(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

std::string NeedleOf(const NeedleTrial& trial) {
  return "One of the special magic numbers for " + trial.key + " is: " + trial.value + ".";
}

// The trial's haystack without the needle, and where the needle was in it.
std::string HayOf(const NeedleTrial& trial, size_t& place) {
  const size_t first_line = trial.text.find('\n') + 1;
  std::string hay = trial.text.substr(first_line);
  const std::string needle = NeedleOf(trial);
  place = hay.find(needle);
  if (place == std::string::npos) return {};
  hay.erase(place, needle.size() + 1);
  return hay;
}

TEST(HaystackTest, SentencesBeginAfterTheirMarks) {
  const std::string text =
      "One. Two! \"Three?\" (Four.) 5 is e.g. a number. Wait... what? \u201cSix.\u201d Seven";
  std::vector<std::string> sentences;
  const std::vector<size_t> starts = SentenceStarts(text);
  for (size_t i = 0; i < starts.size(); ++i) {
    const size_t end = i + 1 < starts.size() ? starts[i + 1] : text.size();
    sentences.push_back(text.substr(starts[i], end - starts[i]));
  }
  EXPECT_EQ(sentences, (std::vector<std::string>{"One. ", "Two! ", "\"Three?\" ", "(Four.) ",
                                                 "5 is e.g. a number. ", "Wait... what? ",
                                                 "\u201cSix.\u201d ", "Seven"}));
}

TEST(HaystackTest, WhiteSpaceBecomesSingleSpaces) {
  const std::vector<std::string> texts = {"  A b.\n\nC\td. ", "", "E f."};
  const Haystack haystack(texts);
  EXPECT_EQ(haystack.text(), "A b. C d. E f.");
  EXPECT_EQ(haystack.n_sentences(), 3u);
  EXPECT_EQ(haystack.From(1, 20).substr(0, 20), "C d. E f. A b. C d. ");
  EXPECT_EQ(haystack.From(4, 3).substr(0, 3), "C d");
  const std::vector<std::string> nothing = {" \n", ""};
  EXPECT_THROW(Haystack{nothing}, Error);
}

TEST(HaystackTest, CutsBetweenWords) {
  const std::string text = "some words here";
  EXPECT_EQ(WordCut(text, 0), 0u);
  EXPECT_EQ(WordCut(text, 4), 4u);
  EXPECT_EQ(WordCut(text, 9), 4u);
  EXPECT_EQ(WordCut(text, 10), 10u);
  EXPECT_EQ(WordCut(text, 15), 15u);
  EXPECT_EQ(WordCut(text, 99), 15u);
}

TEST(HaystackTest, NeverCutsACharacter) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += i % 2 == 0 ? "\u6f22" : "\U0001f9f5";  // 3 and 4 bytes
  size_t before = 0;
  for (size_t bytes = 0; bytes <= text.size(); ++bytes) {
    const size_t cut = WordCut(text, bytes);
    ASSERT_LE(cut, bytes);
    ASSERT_GE(cut, before) << bytes;
    ASSERT_TRUE(cut == text.size() || (static_cast<unsigned char>(text[cut]) & 0xc0) != 0x80)
        << bytes;
    before = cut;
  }
  EXPECT_EQ(before, text.size());
}

TEST(NeedleTaskTest, FillsTheLength) {
  for (const PromptFrame& frame : {ChatFrame(), PromptFrame{}}) {
    const NeedleTask task = TaskOf(1, frame);
    for (int64_t length : {int64_t{512}, int64_t{1024}, task.min_length()}) {
      for (int index = 0; index < 4; ++index) {
        const int64_t all = PromptTokens(task.Make(index, length)) + NeedleTask::kAnswerTokens;
        EXPECT_LE(all, length);
        EXPECT_GE(all, length - 12) << "more words would have fitted";
      }
    }
    EXPECT_THROW(task.Make(0, task.min_length() - 1), Error);
  }
}

TEST(NeedleTaskTest, HidesTheNeedleOnceNearItsDepth) {
  const NeedleTask task = TaskOf(2);
  for (int index = 0; index < 12; ++index) {
    const NeedleTrial trial = task.Make(index, 1024);
    EXPECT_EQ(trial.value.size(), 7u);
    EXPECT_EQ(Count(trial.text, trial.value), 1);
    EXPECT_EQ(Count(trial.text, trial.key), 1);
    size_t place = 0;
    const std::string hay = HayOf(trial, place);
    ASSERT_FALSE(hay.empty());
    // No start of a sentence is nearer to the depth asked for.
    const double wanted = trial.depth * static_cast<double>(hay.size());
    const double distance = std::abs(static_cast<double>(place) - wanted);
    for (size_t start : SentenceStarts(hay)) {
      EXPECT_LE(distance, std::abs(static_cast<double>(start) - wanted) + 1);
    }
    EXPECT_EQ(trial.context, DefaultModel().tokenizer().Encode(trial.text));
  }
}

TEST(NeedleTaskTest, HayIsRunningText) {
  const NeedleTask task = TaskOf(3);
  const std::string twice = EssayHaystack().text() + " " + EssayHaystack().text();
  for (int index = 0; index < 4; ++index) {
    size_t place = 0;
    const std::string hay = HayOf(task.Make(index, 600), place);
    ASSERT_GT(hay.size(), 1000u);
    // The needle at the very end would have left a space.
    EXPECT_NE(twice.find(hay.substr(0, hay.find_last_not_of(' ') + 1)), std::string::npos);
  }
}

TEST(NeedleTaskTest, DependsOnSeedAndIndexAlone) {
  const NeedleTrial trial = TaskOf(4).Make(7, 700);
  const NeedleTrial again = TaskOf(4).Make(7, 700);
  EXPECT_EQ(trial.text, again.text);
  EXPECT_EQ(trial.question, again.question);
  const NeedleTrial longer = TaskOf(4, PromptFrame{}).Make(7, 900);
  EXPECT_EQ(trial.key, longer.key);
  EXPECT_EQ(trial.value, longer.value);
  EXPECT_EQ(trial.depth, longer.depth);
  std::set<std::string> values, texts;
  std::set<double> depths;
  for (uint64_t seed : {4, 5, 6}) {
    for (int index = 0; index < 3; ++index) {
      const NeedleTrial other = TaskOf(seed).Make(index, 400);
      values.insert(other.value);
      texts.insert(other.text.substr(0, 300));
      depths.insert(other.depth);
    }
  }
  EXPECT_EQ(values.size(), 9u);
  EXPECT_GE(texts.size(), 8u);
  EXPECT_EQ(depths.size(), 9u);
}

// A seed must mean the same trials on every machine and in every version.
TEST(NeedleTaskTest, SeedIsPinned) {
  const NeedleTrial trial = TaskOf(42).Make(0, 512);
  EXPECT_EQ(trial.key, "tired-basket");
  EXPECT_EQ(trial.value, "6037881");
  EXPECT_NEAR(trial.depth, 0.34329192209867343, 1e-9);
}

TEST(NeedleTaskTest, WordsInsteadOfNumbers) {
  const NeedleTask task(DefaultModel().tokenizer(), ChatFrame(), EssayHaystack(), 42,
                        NeedleValues::kWords);
  for (int64_t length : {int64_t{512}, task.min_length()}) {
    for (int index = 0; index < 6; ++index) {
      const NeedleTrial trial = task.Make(index, length);
      EXPECT_NE(trial.value, trial.key);
      EXPECT_EQ(Count(trial.text, trial.value), 1);
      EXPECT_EQ(Count(trial.text, "One of the special magic words for " + trial.key +
                                      " is: " + trial.value + "."),
                1);
      EXPECT_EQ(trial.text.find("number"), std::string::npos);
      const std::string question = DefaultModel().tokenizer().Decode(trial.question, true);
      EXPECT_EQ(Count(question, "special magic word for " + trial.key), 2);
      EXPECT_EQ(Count(question, trial.value), 0);
      EXPECT_LE(PromptTokens(trial) + NeedleTask::kAnswerTokens, length);
      EXPECT_EQ(trial.depth, TaskOf(42).Make(index, length).depth);
    }
  }
}

TEST(NeedleTaskTest, DepthsSpreadOverTheText) {
  const NeedleTask task = TaskOf(8);
  int in_quarter[4] = {};
  for (int index = 0; index < 200; ++index) {
    const double depth = task.Make(index, task.min_length()).depth;
    ASSERT_GE(depth, 0.0);
    ASSERT_LT(depth, 1.0);
    ++in_quarter[static_cast<int>(4 * depth)];
  }
  for (int count : in_quarter) EXPECT_NEAR(count, 50, 25);  // four deviations
}

TEST(NeedleTaskTest, GridOfDepths) {
  const auto task = [](int n_depths) {
    return NeedleTask(DefaultModel().tokenizer(), ChatFrame(), EssayHaystack(), 8,
                      NeedleValues::kNumbers, n_depths);
  };
  for (int index = 0; index < 10; ++index) {
    const NeedleTrial trial = task(5).Make(index, 1024);
    EXPECT_EQ(trial.depth, (index % 5) / 4.0);
    size_t place = 0;
    const std::string hay = HayOf(trial, place);
    EXPECT_NEAR(static_cast<double>(place) / static_cast<double>(hay.size()), trial.depth, 0.1);
    EXPECT_EQ(trial.key, TaskOf(8).Make(index, 1024).key);
  }
  EXPECT_EQ(task(1).Make(3, 1024).depth, 0.5);
}

TEST(NeedleTaskTest, CharactersStayWhole) {
  std::string text;
  for (int i = 0; i < 4000; ++i) text += i % 3 == 0 ? "\u6f22" : "\u5b57";
  const std::vector<std::string> texts = {text};
  const Haystack haystack(texts);
  const NeedleTask task(DefaultModel().tokenizer(), {}, haystack, 1);
  for (int64_t length : {400, 401, 402, 403, 404, 405}) {
    const NeedleTrial trial = task.Make(0, length);
    EXPECT_EQ(DefaultModel().tokenizer().Decode(trial.context), trial.text);
    EXPECT_EQ(trial.text.find("\ufffd"), std::string::npos);
    EXPECT_LE(PromptTokens(trial) + NeedleTask::kAnswerTokens, length);
  }
}

TEST(NeedleTaskTest, ChatFrameStandsAroundTheText) {
  const Tokenizer& tokenizer = DefaultModel().tokenizer();
  const NeedleTrial trial = TaskOf(5).Make(0, 400);
  const std::string question =
      "What is the special magic number for " + trial.key + " mentioned in the provided text?";
  const std::string answer =
      " The special magic number for " + trial.key + " mentioned in the provided text is";
  const std::vector<ChatMessage> messages = {{"user", trial.text + "\n" + question}};
  std::string whole;
  for (const TextSegment& segment :
       ChatTemplate::FromSource(DefaultModel().info().chat_template).Render(messages)) {
    whole += segment.text;
  }
  EXPECT_EQ(tokenizer.Decode(trial.opening, true) + tokenizer.Decode(trial.context, true) +
                tokenizer.Decode(trial.question, true),
            whole + answer);
  const NeedleTrial plain = TaskOf(5, PromptFrame{}).Make(0, 400);
  EXPECT_EQ(tokenizer.Decode(plain.question), "\n" + question + answer);
  EXPECT_TRUE(plain.opening.empty());
}

TEST(NeedleTaskTest, ShortHaystackComesAgainAndAgain) {
  std::string text;
  for (int i = 0; i < 10; ++i) text += "All is well. ";
  const std::vector<std::string> texts = {text};
  const Haystack haystack(texts);
  const NeedleTrial trial = NeedleTask(DefaultModel().tokenizer(), {}, haystack, 1).Make(0, 512);
  EXPECT_EQ(Count(trial.text, trial.value), 1);
  EXPECT_GT(Count(trial.text, "All is well."), 50);
}

Plan CompressingPlan(double fraction, const std::string& budget) {
  Plan plan;
  plan.scorer = "knorm";
  plan.budget = budget;
  plan.window = 64;
  plan.keep.kind = Keep::Kind::kFraction;
  plan.keep.fraction = fraction;
  return plan;
}

Asking OnOneThread(Compression compression = Compression::kAfterReading) {
  Asking asking = {compression, false, {}};
  asking.session.n_threads = 1;
  return asking;
}

TEST(NeedleRun, FullCacheFindsAndCompressionIsMeasured) {
  const NeedleTask task = TaskOf(42);
  const std::vector<Plan> plans = {Plan(), CompressingPlan(0.5, "uniform"),
                                   CompressingPlan(0.25, "uniform")};
  const ModelInfo& info = DefaultModel().info();
  const int64_t heads = int64_t{info.n_layers} * info.n_kv_heads;
  int found = 0;
  for (int index = 0; index < 2; ++index) {
    const NeedleTrial trial = task.Make(index, 512);
    const std::vector<NeedleOutcome> outcomes =
        RunNeedle(DefaultModel(), trial, plans, OnOneThread());
    ASSERT_EQ(outcomes.size(), plans.size());
    const auto context = static_cast<int64_t>(trial.opening.size() + trial.context.size());
    for (const NeedleOutcome& outcome : outcomes) {
      EXPECT_EQ(outcome.tokens, context);
      EXPECT_EQ(outcome.entries_full, context * heads);
      EXPECT_EQ(outcome.correct, Names(outcome.answer, trial.value));
      EXPECT_GT(outcome.read_s, 0);
    }
    EXPECT_EQ(outcomes[0].entries, context * heads);
    EXPECT_NEAR(static_cast<double>(outcomes[1].entries), 0.5 * context * heads, heads);
    EXPECT_NEAR(static_cast<double>(outcomes[2].entries), 0.25 * context * heads, heads);
    EXPECT_LT(outcomes[2].kv_bytes, outcomes[1].kv_bytes);
    EXPECT_LT(outcomes[1].kv_bytes, outcomes[0].kv_bytes);
    found += outcomes[0].correct ? 1 : 0;
  }
  EXPECT_GE(found, 1);
}

// One plan's branch does not touch what the others see, and a branch of everything answers like a
// session of its own.
TEST(NeedleRun, PlansDoNotDisturbEachOther) {
  const NeedleTrial trial = TaskOf(42).Make(0, 400);
  const Plan half = CompressingPlan(0.5, "uniform");
  const std::vector<Plan> plans = {CompressingPlan(0.2, "uniform"), half, Plan()};
  const auto run = [&](std::span<const Plan> some, Compression compression) {
    return RunNeedle(DefaultModel(), trial, some, OnOneThread(compression));
  };
  const std::vector<NeedleOutcome> together = run(plans, Compression::kAfterReading);
  const std::vector<NeedleOutcome> alone = run({&half, 1}, Compression::kAfterReading);
  EXPECT_EQ(together[1].answer, alone[0].answer);
  EXPECT_EQ(together[1].entries, alone[0].entries);
  const std::vector<NeedleOutcome> anew = run(plans, Compression::kWhileReading);
  EXPECT_EQ(together[2].answer, anew[2].answer);
  EXPECT_EQ(together[2].entries, anew[2].entries);
  EXPECT_LT(anew[0].entries, anew[1].entries);
}

Plan PlanOf(const std::string& scorer, int window, double fraction) {
  static const auto calibration =
      std::make_shared<const Calibration>(Calibration::Load(PITH_DEFAULT_CALIBRATION));
  Plan plan = CompressingPlan(fraction, "auto");
  plan.scorer = scorer;
  plan.window = window;
  if (scorer == "kvzap") plan.calibration = calibration;
  return plan;
}

// One reading that all scorers judge gives what a reading for each of them gives.
TEST(NeedleRun, ScorersShareAReading) {
  const NeedleTrial trial = TaskOf(42).Make(1, 256);
  const std::vector<Plan> plans = {PlanOf("kvzap", 64, 0.5), Plan(), PlanOf("kvzip", 32, 0.4),
                                   PlanOf("knorm", 16, 0.3)};
  const auto run = [&](std::span<const Plan> some) {
    return RunNeedle(DefaultModel(), trial, some, OnOneThread());
  };
  const std::vector<NeedleOutcome> together = run(plans);
  ASSERT_EQ(together.size(), plans.size());
  for (size_t i : {0, 2, 3}) {
    const NeedleOutcome alone = run({&plans[i], 1}).front();
    EXPECT_EQ(together[i].answer, alone.answer) << i;
    EXPECT_EQ(together[i].entries, alone.entries) << i;
    EXPECT_EQ(together[i].kv_bytes, alone.kv_bytes) << i;
    EXPECT_EQ(together[i].score_s > 0, plans[i].scorer == "kvzip") << i;
  }
}

}  // namespace
}  // namespace pith
