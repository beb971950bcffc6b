// What `pith eval TASK` can measure.
#pragma once

#include <span>

namespace pith::cli {

struct EvalTask {
  const char* name;
  const char* summary;
  // As Verb::run.
  int (*run)(const EvalTask& task, std::span<char* const> arguments);
};

int EvalNeedle(const EvalTask& task, std::span<char* const> arguments);
int EvalRuler(const EvalTask& task, std::span<char* const> arguments);
int EvalLongBench(const EvalTask& task, std::span<char* const> arguments);
int EvalKld(const EvalTask& task, std::span<char* const> arguments);
int EvalPpl(const EvalTask& task, std::span<char* const> arguments);
int EvalSpearman(const EvalTask& task, std::span<char* const> arguments);
int EvalCodec(const EvalTask& task, std::span<char* const> arguments);
int EvalReport(const EvalTask& task, std::span<char* const> arguments);

inline constexpr EvalTask kEvalTasks[] = {
    {"needle", "hide a number in a long text, compress, then ask for it (RULER's niah_single_2)",
     EvalNeedle},
    {"ruler", "retrieve, trace and count in generated texts: RULER's tasks", EvalRuler},
    {"longbench", "answer questions about long texts from LongBench's files", EvalLongBench},
    {"kld", "how far compression moves the predictions of running text (KL divergence)", EvalKld},
    {"ppl", "perplexity of texts that are read with a compressed cache", EvalPpl},
    {"spearman", "whether scorers rank entries as later queries look at them", EvalSpearman},
    {"codec", "what codecs do to attention over keys, layer by layer", EvalCodec},
    {"report", "draw what the others printed with --json: a page with plots, or tables",
     EvalReport},
};

}  // namespace pith::cli
