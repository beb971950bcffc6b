// pith eval codec: what codecs do to attention over keys.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/eval_plans.h"
#include "cli/eval_tasks.h"
#include "cli/eval_texts.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "eval/codec_fidelity.h"
#include "eval/interval.h"

namespace pith::cli {
namespace {

using Json = nlohmann::ordered_json;
using CodecCell = Cell<CodecOutcome>;

// Raise it when the same seed no longer gives the same pieces.
constexpr int kTaskVersion = 1;

struct CodecFlags {
  EvalFlags eval{EvalFlags::Tries::kKeyCodecs};
  std::vector<std::string> text;
  int queries = 32;
  int sinks = 0;
  int window = 0;
  bool each_layer = false;
};

// What is told of every codec, of one layer or of all.
struct Measure {
  const char* field;
  const char* title;
  double KeyFidelity::*value;
};
constexpr Measure kMeasures[] = {{"cosine", "cosine", &KeyFidelity::cosine},
                                 {"divergence", "KL, nats", &KeyFidelity::divergence},
                                 {"spearman", "Spearman", &KeyFidelity::spearman},
                                 {"top5", "top 5", &KeyFidelity::top5}};

struct Summary {
  double mean;
  Interval interval;
};

// Means over the heads of the layers from `first` to `last` - 1, piece by piece, summed up.
Summary SummaryOf(const CodecCell& cell, const Measure& measure, size_t first, size_t last,
                  const CodecFlags& flags) {
  std::vector<double> of_pieces;
  for (const CodecOutcome& outcome : cell.outcomes) {
    std::vector<double> heads;
    for (size_t layer = first; layer < last; ++layer) {
      for (const KeyFidelity& head : outcome.per_head.at(layer)) {
        heads.push_back(head.*measure.value);
      }
    }
    of_pieces.push_back(Mean(heads));
  }
  return {Mean(of_pieces), BootstrapMean(of_pieces, flags.eval.seed())};
}

void AddSummaries(Json& json, const CodecCell& cell, size_t first, size_t last,
                  const CodecFlags& flags) {
  for (const Measure& measure : kMeasures) {
    const Summary summary = SummaryOf(cell, measure, first, last, flags);
    json[measure.field] = summary.mean;
    json[fmt::format("{}_interval", measure.field)] = Pair(summary.interval);
  }
}

// Cosines over pieces. [n_layers][n_kv_heads]
std::vector<std::vector<double>> PerHead(const CodecCell& cell) {
  std::vector<std::vector<double>> means;
  for (const auto& layer : cell.outcomes.front().per_head) means.emplace_back(layer.size());
  for (const CodecOutcome& outcome : cell.outcomes) {
    for (size_t layer = 0; layer < means.size(); ++layer) {
      for (size_t h = 0; h < means[layer].size(); ++h) {
        means[layer][h] += outcome.per_head.at(layer).at(h).cosine;
      }
    }
  }
  for (auto& layer : means) {
    for (double& sum : layer) sum /= static_cast<double>(cell.outcomes.size());
  }
  return means;
}

Json RecordOf(const CodecCell& cell, const CodecFlags& flags, const TextTask& text) {
  const ModelInfo& info = text.model().info();
  const size_t n_layers = cell.outcomes.front().per_head.size();
  Json json;
  json["task"] = "codec";
  json["model"] = info.name;
  json["fingerprint"] = info.fingerprint;
  json["length"] = cell.length;
  json["key_codec"] = cell.tried.plan.key_codec;
  json["calibration"] = cell.tried.calibration.empty() ? Json() : Json(cell.tried.calibration);
  json["sinks"] = flags.sinks;
  json["window"] = flags.window;
  json["queries"] = flags.queries;
  json["key_bytes"] = cell.outcomes.front().key_bytes;
  AddSummaries(json, cell, 0, n_layers, flags);
  Json& layers = json["layers"] = Json::array();
  for (size_t layer = 0; layer < n_layers; ++layer) {
    AddSummaries(layers.emplace_back(Json::object()), cell, layer, layer + 1, flags);
  }
  json["per_head"] = PerHead(cell);
  AddOrigin(json, flags.eval, text.options(), MeansOf(cell.outcomes).date);
  return json;
}

std::string TableOf(const std::vector<CodecCell>& cells, const CodecFlags& flags) {
  std::vector<std::vector<std::string>> rows = {{"length", "key codec", "bytes a key", "layers"}};
  for (const Measure& measure : kMeasures) {
    rows.front().push_back(measure.title);
    rows.front().push_back("95 % interval");
  }
  for (const CodecCell& cell : cells) {
    const size_t n_layers = cell.outcomes.front().per_head.size();
    const auto add = [&](const std::string& layers, size_t first, size_t last) {
      std::vector<std::string> row = {WithCommas(cell.length), cell.tried.plan.key_codec,
                                      fmt::format("{:g}", cell.outcomes.front().key_bytes), layers};
      for (const Measure& measure : kMeasures) {
        const Summary summary = SummaryOf(cell, measure, first, last, flags);
        row.push_back(fmt::format("{:.4f}", summary.mean));
        row.push_back(fmt::format("{:.4f} to {:.4f}", summary.interval.low, summary.interval.high));
      }
      rows.push_back(std::move(row));
    };
    add("all", 0, n_layers);
    for (size_t layer = 0; layer < (flags.each_layer ? n_layers : 1); ++layer) {
      add(fmt::format("{}", layer), layer, layer + 1);
    }
  }
  return Table(rows);
}

void CheckCount(const char* flag, int value, int low) {
  if (value >= low && value <= 1000000) return;
  throw UsageError(fmt::format("{} is {}, expected {} to 1,000,000", flag, value, low));
}

}  // namespace

int EvalCodec(const EvalTask& task, std::span<char* const> arguments) {
  CodecFlags flags;
  CommandLine line(fmt::format("eval {}", task.name), task.summary);
  AddTextFlag(line, flags.text);
  line.Option("--queries", flags.queries, "N", "tokens at the end of a piece whose queries look");
  line.Option("--sinks", flags.sinks, "N", "first keys that stay exact");
  line.Option("--window", flags.window, "N", "most recent keys of a query that stay exact");
  line.Flag("--each-layer", flags.each_layer,
            "a row for every layer, not only for the first one and for all (--json has them)");
  flags.eval.AddTo(line, "pieces of text of each length");
  line.Footer(
      "--length tokens of plain text are read with the full cache. The last queries then attend "
      "once more, to keys\nthat were encoded and decoded: how near the outputs are (cosine), the "
      "weights (KL), and the order of the scores\n(Spearman, and who is among the first 5). "
      "Intervals are a bootstrap over pieces.");
  if (!line.Parse(arguments)) return kDone;
  flags.eval.Check();
  CheckCount("--queries", flags.queries, 1);
  CheckCount("--sinks", flags.sinks, 0);
  CheckCount("--window", flags.window, 0);

  const TextTask text(flags.text, flags.eval);
  text.CheckLengths(int64_t{flags.queries} + flags.sinks + flags.window + 2,
                    "more than --queries, --sinks and --window together");
  std::vector<TriedPlan> plans = flags.eval.Plans(text.model(), text.options());
  for (TriedPlan& tried : plans) {
    tried.plan.sinks = flags.sinks;
    tried.plan.window = flags.window;
  }
  Json settings = text.Settings("codec", kTaskVersion);
  settings.push_back(text.options().n_batch);
  settings.push_back(flags.queries);
  const auto cells =
      RunCells<CodecOutcome>(flags.eval, settings, plans, "pieces",
                             [&](int trial, int64_t length, std::span<const Plan> missing) {
                               return RunCodecs(text.model(), text.pieces().Make(trial, length),
                                                missing, flags.queries, text.options());
                             });
  if (flags.eval.json()) {
    auto records = Json::array();
    for (const CodecCell& cell : cells) records.push_back(RecordOf(cell, flags, text));
    PrintRecords(records, records.size() == 1);
  } else {
    Print(TableOf(cells, flags));
  }
  return kDone;
}

}  // namespace pith::cli
