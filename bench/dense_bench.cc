// What judging from the hidden state costs, without a model: microseconds of one core per layer for
// SmolLM2-135M's shape and Llama-3.1-8B's, linear and mlp, weights as f16 and as f32. CPU time, the
// best of many: others on the machine matter less.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <limits>
#include <random>
#include <vector>

#include "scorers/dense.h"

namespace {

struct Shape {
  size_t n_embd = 0;
  size_t n_hidden = 0;  // 0: linear
  size_t n_kv_heads = 0;
};

double CpuSeconds() {
  timespec t = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

std::vector<float> Numbers(size_t n, bool as_half, std::mt19937& random) {
  std::vector<float> values(n);
  for (float& value : values) {
    value = static_cast<float>(static_cast<int>(random() % 2048) - 1024) / 8192;
    if (!as_half) value += 1e-6f * static_cast<float>(random() % 100);
  }
  return values;
}

void Measure(const Shape& shape, size_t n_tokens, bool as_half) {
  std::mt19937 random(1);
  // For one token as many layers as do not stay in the second level of the cache, as in a model.
  const size_t n_layers = n_tokens == 1 ? 30 : 2;
  const size_t n_last = shape.n_hidden > 0 ? shape.n_hidden : shape.n_embd;
  std::vector<pith::Dense> inner, outer;
  for (size_t i = 0; i < n_layers; ++i) {
    if (shape.n_hidden > 0) {
      inner.emplace_back(Numbers(shape.n_hidden * shape.n_embd, as_half, random),
                         Numbers(shape.n_hidden, false, random));
    }
    outer.emplace_back(Numbers(shape.n_kv_heads * n_last, as_half, random),
                       Numbers(shape.n_kv_heads, false, random));
  }
  const std::vector<float> rows = Numbers(n_tokens * shape.n_embd, false, random);
  std::vector<float> between(n_tokens * shape.n_hidden);
  std::vector<float> worth(n_tokens * shape.n_kv_heads);
  double best = std::numeric_limits<double>::infinity();
  const double begin = CpuSeconds();
  for (int round = 0; round < 50 && (round < 3 || CpuSeconds() - begin < 1); ++round) {
    const double start = CpuSeconds();
    for (size_t i = 0; i < n_layers; ++i) {
      const float* from = rows.data();
      if (shape.n_hidden > 0) {
        inner[i].Apply({from, n_tokens, shape.n_embd, shape.n_embd}, between.data(), shape.n_hidden,
                       1);
        pith::Gelu(between);
        from = between.data();
      }
      outer[i].Apply({from, n_tokens, n_last, n_last}, worth.data(), 1, n_tokens);
    }
    best = std::min(best, (CpuSeconds() - start) / static_cast<double>(n_layers));
  }
  const double products =
      static_cast<double>(n_tokens) *
      static_cast<double>(shape.n_hidden * shape.n_embd + shape.n_kv_heads * n_last);
  std::printf("%5zu -> %3zu -> %zu, %s, %3zu tokens: %9.1f us, %5.1f GFLOP/s\n", shape.n_embd,
              shape.n_hidden, shape.n_kv_heads, as_half ? "f16" : "f32", n_tokens, best * 1e6,
              2e-9 * products / best);
}

}  // namespace

int main() {
  for (const Shape& shape : {Shape{576, 0, 3}, {576, 72, 3}, {4096, 0, 8}, {4096, 512, 8}}) {
    for (const size_t n_tokens : {1, 256}) {
      for (const bool as_half : {true, false}) Measure(shape, n_tokens, as_half);
    }
  }
}
