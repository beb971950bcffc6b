// JSON that measurements read: their own trials and records, and the files of published tasks.
#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "eval/longbench.h"
#include "eval/report.h"
#include "eval/report_page.h"
#include "eval/report_records.h"
#include "eval/report_text.h"
#include "eval/ruler_documents.h"
#include "eval/trial_log.h"
#include "fuzz/memory_file.h"
#include "fuzz/seeds.h"
#include "pith/error.h"

namespace {

// The first byte of an input.
enum Kind : char { kTrials = 'T', kReport = 'R', kLongBench = 'L', kSquad = 'S', kHotpotQa = 'H' };

template <typename Outcome>
void ReadTrials(std::string_view lines) {
  static const pith::testing::MemoryFile file;
  file.Write(lines);
  try {
    const pith::TrialLog<Outcome> log(file.path());
    log.Find("s", 1, 0);
  } catch (const pith::Error&) {
  }
}

void MakeReport(std::string_view json) {
  std::istringstream stream{std::string(json)};
  std::vector<pith::EvalRecord> records;
  pith::ReadRecords(stream, "fuzz", records);
  const pith::Report report = pith::MakeReport(records);
  pith::ToMarkdown(report);
  pith::ToPage(report);
  for (const pith::ReportSection& section : report.sections) {
    for (const pith::ReportTable& table : section.tables) pith::ToCsv(table);
  }
}

void ReadLongBench(std::string_view lines) {
  std::vector<pith::LongBenchSet> sets;
  pith::ReadLongBench(lines, "fuzz", sets);
  for (const pith::LongBenchSet& set : sets) {
    for (const pith::LongBenchSample& sample : set.samples) {
      pith::LongBenchScore(set.dataset, sample, sample.input);
    }
  }
}

// Trials that can be read as those of several tasks: of needles, answers, codecs and divergences,
// then of perplexity and rank correlations.
std::string Trials() {
  const std::string begin =
      R"({"settings":"s","length":1,"trial":0,"scorer":"kvzip","keep":"25%","budget":"global",)"
      R"("window":128,"key":"k","value":"v","depth":0.5,"correct":true,"answer":"a",)"
      R"("subtask":"qasper","references":["r"],"score":0.5,"document":1,"begin":2,)"
      R"("by_position":[0.5,1],"key_bytes":16,"divergence":[0.1],"same_top":[1],)";
  const std::string end =
      R"("tokens":9,"entries":8,"entries_full":9,"entries_per_head":[[8]],"kv_bytes":64,)"
      R"("read_s":1.5,"score_s":0.5,"date":"2026"})"
      "\n";
  return char{kTrials} + begin + R"("nll":[1.5],"per_head":[[[0.5,1,0.25,1]]],)" + end + begin +
         R"("nll":1.5,"per_head":[[0.5]],)" + end + R"({"settings":"s)";
}

std::string Records() {
  std::string json(1, kReport);
  json += '[';
  for (const char* task :
       {R"("kld","divergence":0.5,"divergence_interval":[0.25,1],"same_top":0.5)",
        R"("ppl","perplexity":9,"perplexity_interval":[8,10])", R"("ppl_streaming","perplexity":9)",
        R"("niah_single_2","accuracy":1,"by_depth":[{"depth":0.5,"correct":1,"trials":2}])",
        R"("ruler","subtask":"vt","score":50)", R"("longbench","subtask":"mean","score":50)",
        R"("spearman","spearman":0.5,"per_head":[[0.5,null],[1,-1]])",
        R"("codec","key_codec":"pq8x4","key_bytes":4,"cosine":0.9,"spearman":0.9,"top5":0.5)"}) {
    for (const char* plan :
         {R"("scorer":"full","keep":"100%","budget":null)",
          R"("scorer":"kvzip","keep":"25%","budget":"global","window":128,"kept_fraction":0.25,)"
          R"("kept_per_head":[[0.5,0],[0.25,0.25]],"tier_shares":"f16:10%")"}) {
      if (json.size() > 2) json += ",\n";
      json += std::string(R"({"model":"m","length":2048,"kv_bytes":4096,"trials":2,"seed":1,)") +
              plan + R"(,"task":)" + task + "}";
    }
  }
  return json + "] {\"task\":\"kld\"}";
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  std::vector<std::string> seeds = {Trials(), Records()};
  for (const char* dataset :
       {"qasper", "gov_report", "trec", "passage_count", "lcc_e", "passage_retrieval_en"}) {
    seeds.push_back(std::string(1, kLongBench) + R"({"dataset":")" + dataset +
                    R"(","input":"\u00e4 b 3","context":"c","answers":["b c","Paragraph 3"],)" +
                    R"("all_classes":["b c","d"]})" + "\n");
  }
  seeds.push_back(
      std::string(1, kSquad) +
      R"({"data":[{"paragraphs":[{"context":"c","qas":[{"question":"q","is_impossible":false,)"
      R"("answers":[{"text":"a"}]}]},{"context":"d","qas":[]}]}]})");
  seeds.push_back(std::string(1, kHotpotQa) +
                  R"([{"question":"q","answer":"a","context":[["t",["s.","s."]],["u",["v"]]]}])");
  pith::testing::WriteSeeds(*argc, *argv, seeds);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    switch (data[0]) {
      case kTrials:
        ReadTrials<pith::NeedleOutcome>(text);
        ReadTrials<pith::KldOutcome>(text);
        ReadTrials<pith::ScoredOutcome>(text);
        ReadTrials<pith::PplOutcome>(text);
        ReadTrials<pith::SpearmanOutcome>(text);
        ReadTrials<pith::CodecOutcome>(text);
        break;
      case kReport:
        MakeReport(text);
        break;
      case kLongBench:
        ReadLongBench(text);
        break;
      case kSquad:
        pith::ReadSquad(text, "fuzz");
        break;
      case kHotpotQa:
        pith::ReadHotpotQa(text, "fuzz");
        break;
      default:
        break;
    }
  } catch (const pith::Error&) {
  }
  return 0;
}
