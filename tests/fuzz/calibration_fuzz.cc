// The reader of calibrations, and what scorers and codecs make of what it has read.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/matrix_view.h"
#include "cache/codec.h"
#include "calibrate/metadata_keys.h"
#include "engine/plan_calibration.h"
#include "fuzz/memory_file.h"
#include "fuzz/seeds.h"
#include "pith/calibration.h"
#include "pith/error.h"
#include "scorers/scorer.h"
#include "tools/random_codebooks.h"
#include "tools/temp_folder.h"

namespace {

using pith::Calibration;

constexpr int kLayers = 2;
constexpr int kHeads = 2;
constexpr int kDim = 8;

std::vector<float> Waves(int n) {
  std::vector<float> values(static_cast<size_t>(n));
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
  return values;
}

Calibration Empty() {
  Calibration calibration;
  calibration.n_layers = kLayers;
  calibration.n_kv_heads = kHeads;
  calibration.head_dim = kDim;
  return calibration;
}

Calibration Filters() {
  Calibration calibration = Empty();
  calibration.q_filters = Waves(kLayers * kHeads * kDim);
  calibration.metadata = {{pith::kModelKey, "m"}, {pith::kFingerprintKey, "00ff"}};
  return calibration;
}

Calibration Kvzap(int n_hidden) {
  Calibration calibration = Filters();
  const int n_in = n_hidden == 0 ? 3 : n_hidden;
  calibration.kvzap.emplace();
  calibration.kvzap->n_embd = 3;
  calibration.kvzap->n_kv_heads = kHeads;
  calibration.kvzap->n_hidden = n_hidden;
  calibration.kvzap->quantiles = {-2, 0, 1.5};
  calibration.kvzap->layers.resize(
      kLayers, {Waves(n_hidden * 3), Waves(n_hidden), Waves(kHeads * n_in), Waves(kHeads)});
  return calibration;
}

Calibration KvzapPlus() {
  Calibration calibration = Filters();
  calibration.kvzap_plus.emplace();
  calibration.kvzap_plus->n_embd = 3;
  calibration.kvzap_plus->n_kv_heads = kHeads;
  calibration.kvzap_plus->head_dim = kDim;
  calibration.kvzap_plus->layers.resize(kLayers, {Waves(2 * kHeads * 3), Waves(2 * kHeads * kDim),
                                                  Waves(2 * kHeads * 2), Waves(2 * kHeads)});
  return calibration;
}

Calibration Queries(bool in_full) {
  Calibration calibration = Empty();
  const int n = kLayers * 2 * kHeads * kDim;
  const std::vector<float> spread(static_cast<size_t>(in_full ? n * kDim : n), 0.5f);
  calibration.queries = {kLayers, 2 * kHeads, kDim, Waves(n), spread};
  if (in_full) return calibration;
  calibration.q_filters = Filters().q_filters;
  calibration.curves.emplace();
  calibration.curves->n_layers = kLayers;
  calibration.curves->n_kv_heads = kHeads;
  for (int i = 0; i < kLayers * kHeads * pith::KeepCurves::kPoints; ++i) {
    calibration.curves->loss.push_back(1 / (1 + static_cast<float>(i % 33)));
  }
  return calibration;
}

Calibration Codebooks() {
  Calibration calibration = Empty();
  calibration.codebooks =
      pith::testing::RandomCodebooks(kLayers, kHeads, kDim, {"pq4x2", "pq8x1"}, 1, 1);
  return calibration;
}

// The model that a calibration is for, as far as it says.
pith::ModelInfo ModelOf(const Calibration& calibration, bool rope_interleaved) {
  pith::ModelInfo model;
  model.name = "m";
  model.n_layers = calibration.n_layers;
  model.n_kv_heads = calibration.n_kv_heads;
  model.head_dim = calibration.head_dim;
  model.n_heads = calibration.queries ? calibration.queries->n_heads : calibration.n_kv_heads;
  if (calibration.kvzap) model.n_embd = calibration.kvzap->n_embd;
  if (calibration.kvzap_plus) model.n_embd = calibration.kvzap_plus->n_embd;
  const auto fingerprint = calibration.metadata.find(pith::kFingerprintKey);
  if (fingerprint != calibration.metadata.end()) model.fingerprint = fingerprint->second;
  model.rope_interleaved = rope_interleaved;
  return model;
}

// Anything but an error is a finding.
template <typename Action>
void Try(Action action) {
  try {
    action();
  } catch (const pith::Error&) {
  }
}

void UseCodebooks(const Calibration& calibration, const pith::ModelInfo& model) {
  if (!calibration.codebooks) return;
  const pith::PqCodebooks codebooks = calibration.CodebooksFor(model);
  const auto dim = static_cast<size_t>(codebooks.head_dim);
  std::vector<float> key = Waves(codebooks.head_dim), back(dim);
  std::vector<std::string> names = {"lr8", "lr8q4"};
  for (const auto& codebook : codebooks.centroids) names.push_back(codebook.first);
  for (const std::string& name : names) {
    Try([&] {
      const auto codec = pith::MakeKeyCodec(name, codebooks.head_dim, &codebooks);
      std::vector<std::byte> page(codec->PageBytes());
      const int last = codebooks.n_layers * codebooks.n_kv_heads - 1;
      codec->Encode(last, {key.data(), 1, dim, dim}, 63, page.data());
      codec->Decode(last, page.data(), 63, back.data());
    });
  }
}

void Use(const Calibration& calibration, bool rope_interleaved) {
  const pith::ModelInfo model = ModelOf(calibration, rope_interleaved);
  calibration.CheckFits(model);
  UseCodebooks(calibration, model);
  pith::Plan plan;
  plan.keep = pith::Keep::Parse("50%");
  plan.calibration = std::make_shared<Calibration>(calibration);
  for (const std::string& scorer : pith::ScorerNames()) {
    plan.scorer = scorer;
    Try([&] {
      if (pith::NeedsCalibration(plan) && pith::HoldsFor(calibration, plan)) {
        pith::MakeScorer(plan, model);
        pith::CalibrationHash(plan);
        pith::WorthQuantiles(plan);
      }
    });
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  std::vector<std::string> seeds;
  const pith::testing::TempFolder folder;
  Calibration all = Queries(false);
  all.kvzap = Kvzap(0).kvzap;
  all.codebooks = Codebooks().codebooks;
  for (const Calibration& calibration : {Filters(), Kvzap(0), Kvzap(2), KvzapPlus(), Queries(false),
                                         Queries(true), Codebooks(), all}) {
    calibration.Save(folder / "seed");
    // A seed that is refused would leave most of what follows untested.
    Use(Calibration::Load(folder / "seed"), true);
    seeds.push_back(pith::testing::ReadWhole(folder / "seed"));
  }
  pith::testing::WriteSeeds(*argc, *argv, seeds);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const pith::testing::MemoryFile file;
  file.Write({reinterpret_cast<const char*>(data), size});
  Try([&] {
    const Calibration calibration = Calibration::Load(file.path());
    Try([&] { Use(calibration, false); });
    Try([&] { Use(calibration, true); });
  });
  return 0;
}
