// Drawing the next token.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/fail.h"
#include "pith/generate.h"

namespace pith {
namespace {

struct Candidate {
  Token token;
  float logit;
};

// The likeliest first; equal logits by token id, so that the order is the same everywhere.
bool Likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

void CheckRange(const char* name, double value, double low, double high) {
  if (!(value >= low && value <= high)) {
    Fail(ErrorCode::kInvalidArgument, "{} is {}, expected {} to {}", name, value, low, high);
  }
}

std::vector<Candidate> Candidates(std::span<const float> logits) {
  std::vector<Candidate> candidates(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] < std::numeric_limits<float>::infinity())) {
      Fail(ErrorCode::kInvalidArgument, "the logit of token {} is {}, expected a number", i,
           logits[i]);
    }
    candidates[i] = {static_cast<Token>(i), logits[i]};
  }
  return candidates;
}

// Every token of `recent` once: dividing a positive logit and multiplying a negative one both make
// it less likely (CTRL, arXiv 1909.05858, section 4.1).
void Penalize(std::vector<Candidate>& candidates, std::vector<Token> recent, float penalty) {
  std::sort(recent.begin(), recent.end());
  recent.erase(std::unique(recent.begin(), recent.end()), recent.end());
  for (Token token : recent) {
    if (token < 0 || static_cast<size_t>(token) >= candidates.size()) continue;
    float& logit = candidates[static_cast<size_t>(token)].logit;
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
}

// exp(logit / temperature), relative to the likeliest; `candidates` is sorted and not empty.
std::vector<double> Weights(const std::vector<Candidate>& candidates, double temperature) {
  std::vector<double> weights(candidates.size());
  const double top = candidates.front().logit;
  for (size_t i = 0; i < weights.size(); ++i) {
    weights[i] = std::exp((candidates[i].logit - top) / temperature);
  }
  return weights;
}

double Sum(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value;
  return sum;
}

// Sorts, and drops all but the k likeliest; 0 keeps all.
void KeepTopK(std::vector<Candidate>& candidates, int top_k) {
  const size_t k =
      top_k == 0 ? candidates.size() : std::min(candidates.size(), static_cast<size_t>(top_k));
  std::partial_sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(k),
                    candidates.end(), Likelier);
  candidates.resize(k);
}

// The fewest likeliest candidates whose probabilities reach top_p (arXiv 1904.09751, section 3.1).
void KeepTopP(std::vector<Candidate>& candidates, double top_p) {
  const std::vector<double> weights = Weights(candidates, 1.0);
  const double target = top_p * Sum(weights);
  double reached = 0;
  size_t kept = 0;
  while (kept < candidates.size() && (kept == 0 || reached < target)) reached += weights[kept++];
  candidates.resize(kept);
}

// Candidates at least min_p times as likely as the likeliest (arXiv 2407.01082, section 3).
void KeepMinP(std::vector<Candidate>& candidates, double min_p) {
  const std::vector<double> weights = Weights(candidates, 1.0);
  size_t kept = 1;
  while (kept < candidates.size() && weights[kept] >= min_p) ++kept;
  candidates.resize(kept);
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) {
  CheckRange("temperature", options.temperature, 0, 100);
  CheckRange("top-k", options.top_k, 0, std::numeric_limits<int>::max());
  CheckRange("top-p", options.top_p, 0, 1);
  CheckRange("min-p", options.min_p, 0, 1);
  CheckRange("repeat-penalty", options.repeat_penalty, 0.01, 100);
  CheckRange("repeat-last-n", options.repeat_last_n, -1, std::numeric_limits<int>::max());
}

Token Sampler::Sample(std::span<const float> logits) {
  if (logits.empty()) {
    Fail(ErrorCode::kInvalidArgument, "there are no logits to sample from: read a token first");
  }
  std::vector<Candidate> candidates = Candidates(logits);
  if (options_.repeat_penalty != 1.0f) Penalize(candidates, recent_, options_.repeat_penalty);

  if (options_.temperature == 0.0f) {
    const Candidate best = *std::min_element(candidates.begin(), candidates.end(), Likelier);
    if (std::isinf(best.logit)) Fail(ErrorCode::kInvalidArgument, "every logit is -inf");
    return best.token;
  }

  KeepTopK(candidates, options_.top_k);
  if (std::isinf(candidates.front().logit)) {
    Fail(ErrorCode::kInvalidArgument, "every logit is -inf");
  }
  if (options_.top_p < 1.0f) KeepTopP(candidates, options_.top_p);
  if (options_.min_p > 0.0f) KeepMinP(candidates, options_.min_p);

  const std::vector<double> weights = Weights(candidates, options_.temperature);
  // The high 53 bits as a fraction of 1: std::uniform_real_distribution differs between libraries.
  double left = static_cast<double>(random_() >> 11) * 0x1p-53 * Sum(weights);
  size_t last_possible = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] <= 0) continue;
    if (left < weights[i]) return candidates[i].token;
    left -= weights[i];
    last_possible = i;
  }
  return candidates[last_possible].token;
}

void Sampler::Accept(Token token) {
  if (options_.repeat_last_n == 0) return;
  if (options_.repeat_last_n > 0 && recent_.size() == static_cast<size_t>(options_.repeat_last_n)) {
    recent_.erase(recent_.begin());
  }
  recent_.push_back(token);
}

}  // namespace pith
