// Prints nothing, writes what a surrogate gives hidden states: the half of peer_kvzap.py that is
// pith.
//   kvzap_scores SURROGATE HIDDEN.safetensors OUT.safetensors
// HIDDEN has `hidden` [n_layers, n, n_embd]; OUT gets `scores` [n_layers, n_kv_heads, n] f32.
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <vector>

#include "base/safetensors.h"
#include "pith/calibration.h"
#include "scorers/scorer.h"

namespace {

void Run(const char* surrogate_file, const char* hidden_file, const char* out_file) {
  pith::Plan plan;
  plan.scorer = "kvzap";
  plan.keep.kind = pith::Keep::Kind::kFraction;
  plan.keep.fraction = 0.5;
  plan.calibration =
      std::make_shared<const pith::Calibration>(pith::Calibration::Load(surrogate_file));
  if (!plan.calibration->kvzap) throw std::runtime_error("the file holds no surrogate");
  const pith::KvzapSurrogate& surrogate = *plan.calibration->kvzap;
  pith::ModelInfo model;
  model.n_layers = static_cast<int>(surrogate.layers.size());
  model.n_kv_heads = surrogate.n_kv_heads;
  model.n_embd = surrogate.n_embd;
  model.head_dim = plan.calibration->head_dim;
  const auto fingerprint = plan.calibration->metadata.find("model_fingerprint");
  if (fingerprint != plan.calibration->metadata.end()) model.fingerprint = fingerprint->second;
  const auto scorer = pith::MakeScorer(plan, model);

  const pith::SafeTensors tensors = pith::SafeTensors::Open(hidden_file);
  const pith::SafeTensor& hidden = tensors.Get("hidden");
  if (hidden.shape.size() != 3 || hidden.shape[0] != model.n_layers ||
      hidden.shape[2] != model.n_embd) {
    throw std::runtime_error("`hidden` has not the surrogate's shape");
  }
  const std::vector<float> rows = hidden.ToFloats();
  const auto n = static_cast<size_t>(hidden.shape[1]);
  const auto n_embd = static_cast<size_t>(model.n_embd);
  const size_t n_scores = n * static_cast<size_t>(model.n_kv_heads);
  std::vector<float> scores(n_scores * static_cast<size_t>(model.n_layers));
  for (int layer = 0; layer < model.n_layers; ++layer) {
    const auto at = static_cast<size_t>(layer);
    scorer->ScoreHidden({layer, {rows.data() + at * n * n_embd, n, n_embd, n_embd}},
                        std::span(scores).subspan(at * n_scores, n_scores));
  }
  pith::WriteSafeTensors(out_file,
                         {{"scores",
                           {"F32",
                            {model.n_layers, model.n_kv_heads, hidden.shape[1]},
                            std::as_bytes(std::span(scores))}}},
                         {});
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fputs("usage: kvzap_scores SURROGATE HIDDEN.safetensors OUT.safetensors\n", stderr);
    return 2;
  }
  try {
    Run(argv[1], argv[2], argv[3]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kvzap_scores: %s\n", error.what());
    return 1;
  }
  return 0;
}
