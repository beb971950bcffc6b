#include "eval/report_tasks.h"

namespace pith {
namespace {

using Format = ReportFormat;

const ReportCurve kPerplexity = {.field = "perplexity",
                                 .interval = "perplexity_interval",
                                 .title = "Perplexity",
                                 .axis = "perplexity",
                                 .log = true};
const ReportCurve kNllIncrease = {.field = "nll_increase",
                                  .interval = "nll_increase_interval",
                                  .title = "Increase of the negative log-likelihood",
                                  .axis = "NLL increase (nats per token)",
                                  .relative = true};

const std::vector<ReportMeasure> kPerplexityMeasures = {
    {"perplexity", "perplexity_interval", "perplexity", Format::kPlain},
    {"nll", "nll_interval", "NLL, nats", Format::kFine},
    {"nll_increase", "nll_increase_interval", "NLL increase, nats", Format::kSigned}};

}  // namespace

const std::vector<TaskReport>& TaskReports() {
  static const std::vector<TaskReport> kReports = {
      {"kld",
       "Divergence of predictions",
       "How far compression moves the predictions of the text that follows, against the full "
       "cache. Intervals are a bootstrap over pieces of text.",
       {"kld"},
       {{"divergence", "divergence_interval", "KLD, nats", Format::kFine},
        {"divergence_median", nullptr, "median", Format::kFine},
        {"divergence_p99", nullptr, "99 %", Format::kFine},
        {"divergence_p999", nullptr, "99.9 %", Format::kFine},
        {"same_top", "same_top_interval", "same top", Format::kPercent},
        {"perplexity", nullptr, "perplexity", Format::kPlain},
        {"nll_increase", "nll_increase_interval", "NLL increase, nats", Format::kSigned}},
       {{.field = "divergence",
         .interval = "divergence_interval",
         .title = "KL divergence",
         .axis = "KL divergence (nats per token)",
         .relative = true,
         .log = true},
        kNllIncrease,
        {.field = "same_top",
         .interval = "same_top_interval",
         .title = "Same most likely token",
         .axis = "tokens with the same prediction (%)",
         .relative = true,
         .most = 1,
         .percent = true}}},
      {"ppl",
       "Perplexity",
       "Negative log-likelihood of running text.",
       {"ppl"},
       kPerplexityMeasures,
       {kPerplexity, kNllIncrease}},
      {"ppl_streaming",
       "Perplexity while streaming",
       "Text is read piece by piece and the cache never holds more than its limit.",
       {"ppl_streaming"},
       kPerplexityMeasures,
       {kPerplexity, kNllIncrease}},
      {"needle",
       "Needle in a haystack",
       "A value is hidden in a long text, the text is compressed, then the value is asked for. "
       "Intervals are Wilson's.",
       {"niah_single_2", "needle"},
       {{"accuracy", "interval", "accuracy", Format::kPercent},
        {"correct", nullptr, "found", Format::kCount}},
       {{.field = "accuracy",
         .interval = "interval",
         .title = "Needles found",
         .axis = "needles found (%)",
         .most = 1,
         .percent = true}}},
      {"ruler",
       "RULER",
       "Scores are percentages of what was asked for; intervals are a bootstrap over trials.",
       {"ruler"},
       {{"score", "score_interval", "score", Format::kPoints}},
       {{.field = "score",
         .interval = "score_interval",
         .title = "Mean of the subtasks",
         .axis = "mean score (0 to 100)",
         .most = 100}}},
      {"longbench",
       "LongBench",
       "Scores by the rules of each dataset; intervals are a bootstrap over samples.",
       {"longbench"},
       {{"score", "score_interval", "score", Format::kPoints}},
       {{.field = "score",
         .interval = "score_interval",
         .title = "Mean of the datasets",
         .axis = "mean score (0 to 100)",
         .most = 100}}},
      {"spearman",
       "Rank correlation with received attention",
       "Spearman's rho between the worths that a scorer gives and the attention that entries "
       "receive from later queries, over layers and heads.",
       {"spearman"},
       {{"spearman", "spearman_interval", "rho", Format::kRho}},
       {},
       {"Rank correlation per head", "rho", -1, 1}},
      {"codec",
       "Codecs for keys",
       "What becomes of attention when keys are stored by a codec, all else being exact: how near "
       "its outputs and its weights are, and who is looked at most, over layers, heads and the "
       "last queries of a text. Codebooks are not counted in bytes a key. Intervals are a "
       "bootstrap over pieces of text.",
       {"codec"},
       {{"key_bytes", nullptr, "bytes a key", Format::kCount},
        {"cosine", "cosine_interval", "cosine of outputs", Format::kFine},
        {"divergence", "divergence_interval", "KL of weights, nats", Format::kFine},
        {"spearman", "spearman_interval", "rho of scores", Format::kFine},
        {"top5", "top5_interval", "same 5 first", Format::kPercent}},
       {{.field = "cosine",
         .interval = "cosine_interval",
         .title = "Cosine of attention outputs",
         .axis = "cosine",
         .against = "key_bytes",
         .against_axis = "bytes a key"},
        {.field = "divergence",
         .interval = "divergence_interval",
         .title = "Divergence of attention weights",
         .axis = "KL divergence (nats)",
         .log = true,
         .against = "key_bytes",
         .against_axis = "bytes a key"}},
       {"Cosine of outputs per head", "cosine", 0, 1},
       "codec"},
  };
  return kReports;
}

}  // namespace pith
