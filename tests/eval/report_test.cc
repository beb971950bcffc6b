#include "eval/report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "eval/report_page.h"
#include "eval/report_text.h"
#include "tools/expect_error.h"

namespace pith {
namespace {

using Json = nlohmann::ordered_json;

Json Record(const std::string& task, const Json& scorer, const Json& fields) {
  Json record = {{"task", task},
                 {"model", "M"},
                 {"length", 2048},
                 {"scorer", scorer},
                 {"keep", scorer.is_null() ? "100%" : "25%"},
                 {"budget", scorer.is_null() ? Json() : Json("uniform")},
                 {"window", 128},
                 {"kept_fraction", scorer.is_null() ? 1.0 : 0.25},
                 {"kv_bytes", 3 << 20},
                 {"trials", 4}};
  record.update(fields);
  return record;
}

Json Kld(const Json& scorer, double divergence, const Json& fields = Json::object()) {
  Json record = Record(
      "kld", scorer,
      {{"divergence", divergence}, {"divergence_interval", {divergence / 2, divergence * 2}}});
  record.update(fields);
  return record;
}

std::vector<EvalRecord> Read(const std::string& text) {
  std::istringstream stream(text);
  std::vector<EvalRecord> records;
  ReadRecords(stream, "r.json", records);
  return records;
}

Report ReportOf(const Json& records) { return MakeReport(Read(records.dump())); }

const ReportTable& TableOf(const Report& report, const std::string& id) {
  for (const ReportSection& section : report.sections) {
    for (const ReportTable& table : section.tables) {
      if (table.id == id) return table;
    }
  }
  throw std::runtime_error("no table " + id);
}

const ReportFigure* FindFigure(const Report& report, const std::string& id) {
  for (const ReportSection& section : report.sections) {
    for (const ReportFigure& figure : section.figures) {
      if (figure.id == id) return &figure;
    }
  }
  return nullptr;
}

// What the rows of a table show in a column.
std::vector<std::string> Shown(const ReportTable& table, const std::string& title) {
  const auto column = std::find_if(table.columns.begin(), table.columns.end(),
                                   [&](const auto& c) { return c.title == title; });
  std::vector<std::string> shown;
  if (column == table.columns.end()) return shown;
  for (const auto& row : table.rows) {
    shown.push_back(row.at(static_cast<size_t>(column - table.columns.begin())).shown);
  }
  return shown;
}

using Strings = std::vector<std::string>;

TEST(ReadRecordsTest, ListsObjectsAndSeveralOfThem) {
  const std::string one = Kld("knorm", 0.5).dump();
  EXPECT_EQ(Read(one).size(), 1u);
  EXPECT_EQ(Read("[" + one + "," + one + "]").size(), 2u);
  EXPECT_EQ(Read(one + "\n" + one + "[" + one + "] \n").size(), 3u);
}

TEST(ReadRecordsTest, FieldsThatAreThere) {
  const EvalRecord record =
      Read(Kld("knorm", 0.5, {{"seed", 7}, {"cpu", "C"}, {"next", 64}, {"unknown", {1, "x"}}})
               .dump())
          .front();
  EXPECT_EQ(record.scorer, "knorm");
  EXPECT_EQ(record.length, 2048);
  EXPECT_EQ(record.numbers.at("divergence"), 0.5);
  EXPECT_EQ(record.intervals.at("divergence_interval").high, 1.0);
  EXPECT_EQ(record.plan_settings.at("window"), "128");
  EXPECT_EQ(record.task_settings.at("next"), "64");
  EXPECT_EQ(record.origin.at("seed"), "7");
  EXPECT_EQ(record.origin.at("cpu"), "C");
}

TEST(ReadRecordsTest, AlmostNothingIsEnough) {
  const EvalRecord record = Read(R"({"task":"kld"})").front();
  EXPECT_TRUE(record.full());
  EXPECT_FALSE(record.length.has_value());
  EXPECT_NO_THROW(ToPage(MakeReport({record})));
  EXPECT_TRUE(Read(R"({"task":"kld","scorer":"full"})").front().full());
  EXPECT_TRUE(Read(R"({"task":"kld","scorer":null,"length":null,"kept_per_head":null,
                       "divergence_interval":null})")
                  .front()
                  .full());
}

TEST(ReadRecordsTest, DamageIsOneSentence) {
  const std::string good = Kld("knorm", 0.5).dump();
  for (const auto& [text, words] : std::vector<std::pair<std::string, std::string>>{
           {"", "r.json holds no record"},
           {"[]", "r.json holds no record"},
           {"text", "r.json is no JSON"},
           {good.substr(0, good.size() / 2), "r.json is no JSON, or is cut short"},
           {good + "{", "what follows record 1 of r.json"},
           {"[" + good + ", 7]", "record 2 of r.json is 7, expected an object"},
           {R"({"trial":1})", "record 1 of r.json names no task"},
           {R"({"task":"tea"})", "\"task\" is 'tea', expected kld"},
           {R"({"task":7})", "\"task\" is 7, expected a text"},
           {R"({"task":"kld","length":-1})", "\"length\" is -1, expected a number of tokens"},
           {R"({"task":"kld","length":"many"})", "\"length\" is 'many'"},
           {R"({"task":"kld","divergence":"much"})", "\"divergence\" is 'much', expected a number"},
           {R"({"task":"kld","divergence":-1})", "\"divergence\" is -1, expected 0 or more"},
           {R"({"task":"needle","accuracy":1.5})", "\"accuracy\" is 1.5, expected from 0 to 1"},
           {R"({"task":"needle","interval":[1]})", "\"interval\" is a list, expected [low, high]"},
           {R"({"task":"needle","interval":[1,0]})", "goes from 1 to 0"},
           {R"({"task":"needle","by_depth":[{"depth":0.5,"correct":2}]})", "\"by_depth\""},
           {R"({"task":"needle","by_depth":[{"depth":0.5,"correct":2,"trials":1}]})", "2 of 1"},
           {R"({"task":"kld","kept_per_head":[[0.5],[2]]})", "\"kept_per_head\""},
           {R"({"task":"kld","kept_per_head":[0.5]})", "\"kept_per_head\""},
           {R"({"task":"kld","divergence":1e999})", "r.json is no JSON"},
           {"{\"task\":\"kld\",\"scorer\":\"\xff\"}", "r.json is no JSON"},
       }) {
    testing::ExpectError(ErrorCode::kFormat, words, [&] { Read(text); });
  }
  testing::ExpectError(ErrorCode::kNotFound, "no/such.json",
                       [] { ReadRecords({std::filesystem::path("no/such.json")}); });
}

TEST(ReportTest, RowsAreInOrderAndNamed) {
  const Report report = ReportOf(
      Json::array({Kld("qfilter", 0.4, {{"length", 4096}}), Kld("knorm", 0.5), Kld("qfilter", 0.3),
                   Kld("knorm", 0.1, {{"keep", "50%"}, {"kept_fraction", 0.5}}), Kld(nullptr, 0),
                   Kld("knorm", 0.2, {{"budget", "global"}})}));
  const ReportTable& table = TableOf(report, "kld");
  EXPECT_EQ(Shown(table, "length"),
            (Strings{"2,048", "2,048", "2,048", "2,048", "2,048", "4,096"}));
  EXPECT_EQ(Shown(table, "scorer"),
            (Strings{"full cache", "qfilter", "knorm", "knorm", "knorm", "qfilter"}));
  EXPECT_EQ(Shown(table, "keep"), (Strings{"", "25%", "50%", "25%", "25%", "25%"}));
  EXPECT_EQ(Shown(table, "budget"),
            (Strings{"", "uniform", "uniform", "uniform", "global", "uniform"}));
  EXPECT_EQ(Shown(table, "KLD, nats").at(1), "0.3000");
  EXPECT_EQ(Shown(table, "95 % interval").at(1), "0.1500 to 0.6000");
  EXPECT_EQ(Shown(table, "KV, MiB").at(1), "3.00");
  // Columns without content are left out.
  EXPECT_TRUE(Shown(table, "same top").empty());
  EXPECT_TRUE(Shown(table, "model").empty());
  EXPECT_TRUE(Shown(table, "window").empty());
  EXPECT_EQ(report.scorers, (Strings{"qfilter", "knorm"}));
  EXPECT_EQ(report.variants, (Strings{"uniform", "global"}));
}

TEST(ReportTest, SharesAtAGlance) {
  const Json half = {{"keep", "50%"}, {"kept_fraction", 0.5}};
  const Report report =
      ReportOf(Json::array({Kld("qfilter", 0.4), Kld("qfilter", 0.3, half), Kld("knorm", 0.5),
                            Kld(nullptr, 0), Kld("knorm", 0.2, {{"budget", "global"}})}));
  const ReportTable& table = TableOf(report, "kld_by_share");
  EXPECT_EQ(Shown(table, "scorer"), (Strings{"full cache", "qfilter", "knorm", "knorm"}));
  EXPECT_EQ(Shown(table, "budget"), (Strings{"", "uniform", "uniform", "global"}));
  EXPECT_EQ(Shown(table, "50%"),
            (Strings{"0.0000 (0.0000 to 0.0000)", "0.3000 (0.1500 to 0.6000)", "", ""}));
  EXPECT_EQ(Shown(table, "25%").back(), "0.2000 (0.1000 to 0.4000)");
  EXPECT_EQ(table.rows.at(1).at(4).exact, (Strings{"0.4", "0.2", "0.8"}));

  const Report one_share = ReportOf(Json::array({Kld("qfilter", 0.4), Kld("knorm", 0.5)}));
  for (const ReportSection& section : one_share.sections) {
    for (const ReportTable& other : section.tables) EXPECT_NE(other.id, "kld_by_share");
  }
}

TEST(ReportTest, SettingsAreToldWhereTheyDiffer) {
  const Report report =
      ReportOf(Json::array({Kld("knorm", 0.5), Kld("knorm", 0.4, {{"window", 64}}),
                            Kld("qfilter", 0.3, {{"calibration", "dir/own.pithcal"}}),
                            Kld("knorm", 0.3, {{"model", "N"}, {"next", 64}})}));
  const ReportTable& table = TableOf(report, "kld");
  EXPECT_EQ(Shown(table, "window"), (Strings{"128", "64", "128", "128"}));
  EXPECT_EQ(Shown(table, "model"), (Strings{"M", "M", "M", "N"}));
  EXPECT_EQ(Shown(table, "scorer").at(2), "qfilter@own.pithcal");
  EXPECT_EQ(report.variants, (Strings{"uniform, window 128", "uniform, window 64"}));
  const Json& points = FindFigure(report, "kld_divergence")->data["points"];
  EXPECT_EQ(points.at(1)["plan"], "knorm, uniform, window 64, keep 25%");
  EXPECT_EQ(points.at(1)["panel"], "M, 2,048 tokens");
}

TEST(ReportTest, OfTheSameThingTheLastRecordCounts) {
  const Report report =
      ReportOf(Json::array({Kld(nullptr, 0), Kld("knorm", 0.5, {{"seed", 1}}), Kld("qfilter", 0.1),
                            Kld(nullptr, 0), Kld("knorm", 0.7, {{"seed", 2}, {"trials", 40}})}));
  const ReportTable& table = TableOf(report, "kld");
  EXPECT_EQ(Shown(table, "scorer"), (Strings{"full cache", "knorm", "qfilter"}));
  EXPECT_EQ(Shown(table, "KLD, nats"), (Strings{"0.0000", "0.7000", "0.1000"}));
  ASSERT_EQ(report.notes.size(), 1u);
  EXPECT_EQ(report.notes.front(), "2 records were measured again later; the last record counts.");
  EXPECT_TRUE(ReportOf(Json::array({Kld("knorm", 0.5)})).notes.empty());
}

TEST(ReportTest, FactsAreToldOnce) {
  const Report report = ReportOf(Json::array(
      {Kld("knorm", 0.5, {{"fingerprint", "f1"}, {"version", "1"}, {"date", "2026-02-03"}}),
       Kld("tova", 0.5, {{"fingerprint", "f1"}, {"version", "1"}, {"date", "2026-02-01"}}),
       Kld("tova", 0.5, {{"model", "N"}, {"version", "2"}, {"date", "2026-02-02"}})}));
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"model", "M (f1); N"},
      {"pith", "1; 2"},
      {"date", "2026-02-01 to 2026-02-03"},
      {"records", "3"}};
  EXPECT_EQ(report.facts, expected);
}

TEST(ReportTest, LinesHaveIntervalsAndTheFullCache) {
  const Report report = ReportOf(Json::array(
      {Record("niah_single_2", nullptr, {{"accuracy", 0.9}, {"interval", {0.8, 0.95}}}),
       Record("niah_single_2", "knorm", {{"accuracy", 0.5}, {"interval", {0.3, 0.7}}})}));
  const ReportFigure* figure = FindFigure(report, "needle_accuracy");
  ASSERT_NE(figure, nullptr);
  EXPECT_EQ(figure->kind, "lines");
  ASSERT_EQ(figure->data["points"].size(), 1u);
  const Json& point = figure->data["points"][0];
  EXPECT_EQ(point["y"], 0.5);
  EXPECT_EQ(point["low"], 0.3);
  EXPECT_EQ(point["high"], 0.7);
  EXPECT_EQ(point["share"], 0.25);
  EXPECT_EQ(point["mib"], 3.0);
  EXPECT_EQ(point["panel"], "2,048 tokens");
  ASSERT_EQ(figure->data["full"].size(), 1u);
  EXPECT_EQ(figure->data["full"][0]["y"], 0.9);
  EXPECT_FALSE(figure->caption.empty());
  // The divergence of the full cache from itself is nothing to draw.
  const Report kld = ReportOf(Json::array({Kld(nullptr, 0), Kld("knorm", 0.5)}));
  EXPECT_TRUE(FindFigure(kld, "kld_divergence")->data["full"].empty());
  // Without a compressed plan there is no line.
  EXPECT_EQ(FindFigure(ReportOf(Json::array({Kld(nullptr, 0)})), "kld_divergence"), nullptr);
}

TEST(ReportTest, NeedlesByDepth) {
  const Json depths = {{{"depth", 0}, {"correct", 4}, {"trials", 4}},
                       {{"depth", 0.5}, {"correct", 1}, {"trials", 4}},
                       {{"depth", 1}, {"correct", 0}, {"trials", 0}}};
  const Report report =
      ReportOf(Json::array({Record("needle", "knorm", {{"accuracy", 0.5}, {"by_depth", depths}})}));
  const ReportTable& table = TableOf(report, "needle_depths");
  EXPECT_EQ(Shown(table, "depth"), (Strings{"0%", "50%", "100%"}));
  EXPECT_EQ(Shown(table, "accuracy"), (Strings{"100.0%", "25.0%", ""}));
  EXPECT_EQ(Shown(table, "95 % interval").at(1), "4.6% to 69.9%");
  const Json& cells = FindFigure(report, "needle_depths")->data["points"];
  ASSERT_EQ(cells.size(), 2u);  // where nothing was hidden there is nothing to colour
  EXPECT_EQ(cells[1]["x"], 2048);
  EXPECT_EQ(cells[1]["y"], 0.5);
  EXPECT_EQ(cells[1]["value"], 0.25);
}

TEST(ReportTest, SubtasksStandBelowTheirMean) {
  Json records = Json::array();
  for (const char* scorer : {"", "knorm"}) {
    for (const char* subtask : {"vt", "cwe", "mean"}) {
      const Json name = *scorer == 0 ? Json() : Json(scorer);
      records.push_back(Record(
          "ruler", name,
          {{"subtask", subtask}, {"score", *scorer == 0 ? 80 : 40}, {"score_interval", {10, 90}}}));
    }
  }
  const Report report = ReportOf(records);
  EXPECT_EQ(Shown(TableOf(report, "ruler"), "score"), (Strings{"80.0", "40.0"}));
  EXPECT_EQ(Shown(TableOf(report, "ruler_subtasks"), "subtask"),
            (Strings{"vt", "cwe", "vt", "cwe"}));
  EXPECT_EQ(FindFigure(report, "ruler_score")->data["points"].size(), 1u);
  const ReportFigure* bars = FindFigure(report, "ruler_subtasks");
  ASSERT_NE(bars, nullptr);
  EXPECT_EQ(bars->data["points"].size(), 2u);
  EXPECT_EQ(bars->data["full"].size(), 2u);
  EXPECT_EQ(bars->data["points"][0]["panel"], "2,048 tokens, keep 25%");
  EXPECT_EQ(bars->data["full"][0]["panel"], "2,048 tokens, keep 25%");
}

TEST(ReportTest, HeadsOfTheLongestTextsWhereTheyDiffer) {
  const Json uneven = {{"kept_per_head", {{0.1, 0.9}, {0.25, 0.25}}}};
  const Json even = {{"kept_per_head", {{0.25, 0.25}, {0.25, 0.25}}}};
  Json longer = uneven;
  longer["length"] = 4096;
  Json longer_even = even;
  longer_even["length"] = 4096;
  const Report report =
      ReportOf(Json::array({Kld("knorm", 1, uneven), Kld("knorm", 1, longer),
                            Kld("tova", 1, longer_even), Record("needle", "knorm", longer)}));
  const ReportTable& table = TableOf(report, "heads_kept");
  EXPECT_EQ(Shown(table, "scorer"), (Strings{"knorm", "knorm"}));
  EXPECT_EQ(Shown(table, "length"), (Strings{"4,096", "4,096"}));
  EXPECT_EQ(Shown(table, "head 1"), (Strings{"90.0%", "25.0%"}));
  const ReportFigure* figure = FindFigure(report, "heads_kept");
  EXPECT_EQ(figure->data["points"].size(), 4u);
  EXPECT_EQ(figure->caption,
            "As measured by kld. One plan whose heads all keep the same share is left out. "
            "At 4,096 tokens.");
}

TEST(ReportTest, RankCorrelation) {
  const Report report =
      ReportOf(Json::array({Record("spearman", "knorm",
                                   {{"spearman", -0.25},
                                    {"spearman_interval", {-0.5, 0}},
                                    {"per_head", {{-0.5, nullptr}, {0.25, 1}}}})}));
  EXPECT_EQ(Shown(TableOf(report, "spearman"), "rho"), (Strings{"-0.250"}));
  EXPECT_EQ(Shown(TableOf(report, "spearman_heads"), "head 0"), (Strings{"-0.500", "0.250"}));
  EXPECT_EQ(Shown(TableOf(report, "spearman_heads"), "head 1"), (Strings{"", "1.000"}));
  EXPECT_EQ(FindFigure(report, "spearman_bars")->data["points"].size(), 1u);
}

TEST(ReportTest, CodecsAgainstTheirBytes) {
  Json records = Json::array();
  for (const auto& [codec, bytes] : {std::pair("q8", 68), std::pair("pq8x2", 2)}) {
    records.push_back({{"task", "codec"},
                       {"length", 2048},
                       {"key_codec", codec},
                       {"key_bytes", bytes},
                       {"cosine", 0.5},
                       {"cosine_interval", {0.25, 0.75}},
                       {"divergence", 1.5},
                       {"per_head", {{0.5}, {0.5}}}});
  }
  const Report report = ReportOf(records);
  EXPECT_EQ(Shown(TableOf(report, "codec"), "codec"), (Strings{"q8", "pq8x2"}));
  EXPECT_EQ(Shown(TableOf(report, "codec"), "bytes a key"), (Strings{"68", "2"}));
  EXPECT_EQ(Shown(TableOf(report, "codec_heads"), "head 0"),
            (Strings{"0.500", "0.500", "0.500", "0.500"}));
  const ReportFigure* figure = FindFigure(report, "codec_cosine");
  ASSERT_NE(figure, nullptr);
  EXPECT_EQ(figure->data["x"]["title"], "bytes a key");
  EXPECT_EQ(figure->data["points"][1]["x"], 2);
  EXPECT_EQ(figure->data["points"][1]["scorer"], "pq8x2");
  records[0].erase("key_codec");
  testing::ExpectError(ErrorCode::kFormat, "names no \"key_codec\"", [&] { ReportOf(records); });
}

TEST(ReportTextTest, CsvIsExactAndQuoted) {
  const ReportTable table = {"t",
                             "T",
                             {{"name", {"name"}, true}, {"95 % interval", {"x_low", "x_high"}}},
                             {{{"a", {"say \"a\", b"}}, {"0.1", {"0.125", "1e-05"}}},
                              {{"b", {"two\nlines"}}, {"", {"", ""}}}}};
  EXPECT_EQ(ToCsv(table),
            "name,x_low,x_high\n\"say \"\"a\"\", b\",0.125,1e-05\n\"two\nlines\",,\n");
  const std::string csv = ToCsv(TableOf(ReportOf(Json::array({Kld("a,b", 1.0 / 3)})), "kld"));
  EXPECT_NE(csv.find("length,scorer,keep,budget,divergence,divergence_low,divergence_high,"),
            std::string::npos)
      << csv;
  EXPECT_NE(csv.find("\n2048,\"a,b\",25%,uniform,0.3333333333333333,"), std::string::npos) << csv;
}

TEST(ReportTextTest, MarkdownCarriesTheSameTables) {
  const Report report =
      ReportOf(Json::array({Kld(nullptr, 0), Kld("a|b<c>\n", 0.5, {{"cpu", "C [x](y)"}})}));
  const std::string text = ToMarkdown(report);
  EXPECT_NE(text.find("\n## Divergence of predictions\n"), std::string::npos);
  EXPECT_NE(text.find("- CPU: C \\[x](y)\n"), std::string::npos) << text;
  EXPECT_NE(text.find("| a\\|b\\<c>   |"), std::string::npos) << text;
  // All lines of a table are of one length.
  std::istringstream lines(text);
  std::string line;
  size_t width = 0;
  int rows = 0;
  while (std::getline(lines, line)) {
    if (!line.starts_with('|')) continue;
    if (width == 0) width = line.size();
    EXPECT_EQ(line.size(), width) << line;
    ++rows;
  }
  EXPECT_EQ(rows, 4);
}

TEST(ReportPageTest, WhatRecordsSayIsNoMarkup) {
  const std::string hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&";
  const Report report = ReportOf(
      Json::array({Kld(hostile, 0.5, {{"budget", hostile}, {"keep", hostile}, {"cpu", hostile}}),
                   Kld("caf\u00e9 @DATA@ \u2028", 0.5, {{"model", hostile}})}));
  const std::string page = ToPage(report);
  EXPECT_EQ(page.find("<script>alert"), std::string::npos);
  EXPECT_EQ(page.find("<img src=x"), std::string::npos);
  // The three scripts are those of the page: data, Vega-Lite, drawing.
  size_t scripts = 0;
  for (size_t at = page.find("<script"); at != std::string::npos;
       at = page.find("<script", at + 1)) {
    ++scripts;
  }
  EXPECT_EQ(scripts, 3u);
  // Data that says @DATA@ is not filled in again, and comes back as it was.
  const std::string open = "<script type=\"application/json\" id=\"report\">";
  const size_t begin = page.find(open) + open.size();
  const Json data = Json::parse(page.substr(begin, page.find("</script>", begin) - begin));
  EXPECT_EQ(data["scorers"], Json::array({hostile, "caf\u00e9 @DATA@ \u2028"}));
  EXPECT_EQ(page.substr(begin, page.find("</script>", begin) - begin).find_first_of("<>&"),
            std::string::npos);
}

TEST(ReportPageTest, NothingIsLoaded) {
  const std::string page = ToPage(ReportOf(Json::array({Kld("knorm", 0.5)})));
  EXPECT_NE(page.find("default-src 'none'"), std::string::npos);
  for (const char* loader : {"<link", "<iframe", " src=\"", "@import", "url("}) {
    const size_t head = page.find(loader);
    EXPECT_TRUE(head == std::string::npos || head > page.find("<script>(() =>")) << loader;
  }
  EXPECT_NE(page.find("Redistribution and use in source and binary forms"), std::string::npos);
  for (const char* marker : {"@TITLE@", "@STYLE@", "@DATA@", "@VEGA@", "@SCRIPT@", "@CHOICE@"}) {
    EXPECT_EQ(page.find(marker), std::string::npos) << marker;
  }
}

}  // namespace
}  // namespace pith
