#include "eval/trial_log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "pith/error.h"

namespace pith {
namespace {

namespace fs = std::filesystem;

using NeedleLog = TrialLog<NeedleOutcome>;

class TrialLogTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("pith_trial_log_" + std::to_string(getpid()));
    fs::create_directory(folder_);
    file_ = folder_ / "trials.jsonl";
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Text() const {
    std::ifstream in(file_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void Write(const std::string& text) const { std::ofstream(file_, std::ios::binary) << text; }

  static TrialRecord<NeedleOutcome> Record(int trial, bool correct) {
    TrialRecord<NeedleOutcome> record;
    record.settings = "0123456789abcdef";
    record.length = 2048;
    record.trial = trial;
    record.scorer = "kvzip";
    record.keep = "25%";
    record.budget = "global";
    record.window = 128;
    record.outcome.key = "quiet-harbor";
    record.outcome.value = "1234567";
    record.outcome.depth = 0.5;
    record.outcome.correct = correct;
    record.outcome.answer = " \"12\xff\n\"";  // not UTF-8: a model may say anything
    record.outcome.tokens = 2000;
    record.outcome.entries = 500;
    record.outcome.entries_full = 2000;
    record.outcome.entries_per_head = {{100, 150}, {250, 0}};
    record.outcome.kv_bytes = 123456;
    record.outcome.read_s = 1.5;
    record.outcome.score_s = 2.5;
    record.outcome.date = "2026-11-23T05:00:00Z";
    return record;
  }

  fs::path folder_;
  fs::path file_;
};

TEST_F(TrialLogTest, FinishedTrialsAreThereAgain) {
  {
    NeedleLog log(file_);
    EXPECT_EQ(log.Find("0123456789abcdef", 2048, 0), nullptr);
    log.Add(Record(0, true));
    log.Add(Record(1, false));
  }
  const NeedleLog log(file_);
  const NeedleOutcome* first = log.Find("0123456789abcdef", 2048, 0);
  const NeedleOutcome* second = log.Find("0123456789abcdef", 2048, 1);
  ASSERT_NE(first, nullptr);
  ASSERT_NE(second, nullptr);
  EXPECT_TRUE(first->correct);
  EXPECT_FALSE(second->correct);
  EXPECT_EQ(first->answer, " \"12\ufffd\n\"");
  EXPECT_EQ(first->key, "quiet-harbor");
  EXPECT_EQ(first->value, "1234567");
  EXPECT_EQ(first->depth, 0.5);
  EXPECT_EQ(first->tokens, 2000);
  EXPECT_EQ(first->entries, 500);
  EXPECT_EQ(first->entries_full, 2000);
  EXPECT_EQ(first->entries_per_head, (std::vector<std::vector<int64_t>>{{100, 150}, {250, 0}}));
  EXPECT_EQ(first->kv_bytes, 123456u);
  EXPECT_EQ(first->read_s, 1.5);
  EXPECT_EQ(first->score_s, 2.5);
  EXPECT_EQ(first->date, "2026-11-23T05:00:00Z");
  EXPECT_EQ(log.Find("0123456789abcdef", 2048, 2), nullptr);
  EXPECT_EQ(log.Find("0123456789abcdef", 4096, 0), nullptr);
  EXPECT_EQ(log.Find("fedcba9876543210", 2048, 0), nullptr);
}

TEST_F(TrialLogTest, DivergencesComeBackToTheLastBit) {
  TrialRecord<KldOutcome> record;
  record.settings = "0123456789abcdef";
  record.length = 512;
  record.outcome.divergence = {0.1, 1e-300, 0};
  record.outcome.nll = {1.0 / 3, 2, 12.5};
  record.outcome.same_top = {1, 0, 1};
  record.outcome.document = 3;
  record.outcome.begin = 77;
  record.outcome.entries_full = 10;
  TrialLog<KldOutcome>(file_).Add(record);
  const TrialLog<KldOutcome> log(file_);
  const KldOutcome* found = log.Find(record.settings, 512, 0);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->divergence, record.outcome.divergence);
  EXPECT_EQ(found->nll, record.outcome.nll);
  EXPECT_EQ(found->same_top, record.outcome.same_top);
  EXPECT_EQ(found->document, 3);
  EXPECT_EQ(found->begin, 77);
  EXPECT_EQ(found->entries_full, 10);
  EXPECT_THROW(NeedleLog{file_}, Error);
}

TEST_F(TrialLogTest, ScoredAnswersComeBack) {
  TrialRecord<ScoredOutcome> record;
  record.settings = "0123456789abcdef";
  record.length = 512;
  record.outcome.subtask = "vt";
  record.outcome.score = 0.4;
  record.outcome.answer = "ABCDE FGHIJ";
  record.outcome.references = {"ABCDE", "KLMNO"};
  TrialLog<ScoredOutcome>(file_).Add(record);
  const TrialLog<ScoredOutcome> log(file_);
  const ScoredOutcome* found = log.Find(record.settings, 512, 0);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->subtask, "vt");
  EXPECT_EQ(found->score, 0.4);
  EXPECT_EQ(found->answer, "ABCDE FGHIJ");
  EXPECT_EQ(found->references, record.outcome.references);
  EXPECT_THROW(NeedleLog{file_}, Error);
}

TEST_F(TrialLogTest, PerplexitiesAndRankCorrelationsComeBackToTheLastBit) {
  TrialRecord<PplOutcome> ppl;
  ppl.settings = "0123456789abcdef";
  ppl.outcome.nll = 1.0 / 3;
  ppl.outcome.by_position = {2.0 / 3, 1e-9};
  TrialLog<PplOutcome>(file_).Add(ppl);
  const TrialLog<PplOutcome> log(file_);
  EXPECT_EQ(log.Find(ppl.settings, 0, 0)->nll, ppl.outcome.nll);
  EXPECT_EQ(log.Find(ppl.settings, 0, 0)->by_position, ppl.outcome.by_position);
  EXPECT_THROW(TrialLog<SpearmanOutcome>{file_}, Error);

  fs::remove(file_);
  TrialRecord<SpearmanOutcome> spearman;
  spearman.settings = ppl.settings;
  spearman.outcome.per_head = {{0.1, -1.0 / 3}, {1, 0}};
  TrialLog<SpearmanOutcome>(file_).Add(spearman);
  const TrialLog<SpearmanOutcome> ranks(file_);
  EXPECT_EQ(ranks.Find(ppl.settings, 0, 0)->per_head, spearman.outcome.per_head);
}

TEST_F(TrialLogTest, WithoutAFileItRemembersOnly) {
  NeedleLog log;
  log.Add(Record(0, true));
  EXPECT_NE(log.Find("0123456789abcdef", 2048, 0), nullptr);
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(TrialLogTest, TornLastLineIsCutOffWhereverItWasTorn) {
  {
    NeedleLog log(file_);
    log.Add(Record(0, true));
  }
  const std::string whole = Text();
  for (size_t kept = 1; kept < whole.size(); ++kept) {
    Write(whole + whole.substr(0, kept));
    NeedleLog log(file_);
    ASSERT_NE(log.Find("0123456789abcdef", 2048, 0), nullptr);
    ASSERT_EQ(Text(), whole) << kept;
    log.Add(Record(1, false));
    const NeedleLog again(file_);
    ASSERT_NE(again.Find("0123456789abcdef", 2048, 1), nullptr) << kept;
  }
}

TEST_F(TrialLogTest, OtherFilesAreRefusedAndLeftAlone) {
  {
    NeedleLog log(file_);
    log.Add(Record(0, true));
  }
  const std::string line = Text();
  std::string older = line;  // before it was known what each head kept
  older.erase(older.find(",\"entries_per_head\""),
              std::string(",\"entries_per_head\":[[100,150],[250,0]]").size());
  for (const std::string& text :
       {std::string("an essay without an end"), std::string("an essay\n"), std::string("{}\n"),
        std::string("\n"), older, line + "{\"settings\":3}\n", line.substr(0, 40) + "\n" + line,
        line + "x"}) {
    Write(text);
    try {
      const NeedleLog log(file_);
      ADD_FAILURE() << "accepted " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kFormat);
      EXPECT_NE(std::string(error.what()).find("line "), std::string::npos) << error.what();
    }
    EXPECT_EQ(Text(), text);
  }
}

TEST_F(TrialLogTest, WhatCannotBeWrittenIsSaid) {
  EXPECT_THROW(NeedleLog(folder_ / "no" / "such" / "folder.jsonl"), Error);
  EXPECT_THROW(NeedleLog{folder_}, Error);
  NeedleLog log(file_);
  fs::remove(file_);
  fs::create_directory(file_);
  EXPECT_THROW(log.Add(Record(0, true)), Error);
}

}  // namespace
}  // namespace pith
