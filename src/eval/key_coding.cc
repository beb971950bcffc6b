#include "eval/key_coding.h"

#include <ggml.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "cache/codec.h"
#include "cache/hadamard.h"
#include "cache/quantised_layout.h"

namespace pith {
namespace {

// As a page of the cache has them.
class CacheCoding : public KeyCoding {
 public:
  CacheCoding(std::shared_ptr<const Codec> codec) : codec_(std::move(codec)) {}

  double key_bytes() const override {
    return static_cast<double>(codec_->PageBytes()) / kPageEntries;
  }

  std::vector<float> RoundTrip(int head, MatrixView<const float> keys) const override {
    std::vector<float> back(keys.rows * keys.cols);
    std::vector<std::byte> page(codec_->PageBytes());
    for (size_t begin = 0; begin < keys.rows; begin += kPageEntries) {
      const size_t n = std::min<size_t>(kPageEntries, keys.rows - begin);
      codec_->Encode(head, {keys.row(begin), n, keys.cols, keys.stride}, 0, page.data());
      for (size_t i = 0; i < n; ++i) {
        codec_->Decode(head, page.data(), static_cast<int>(i),
                       back.data() + (begin + i) * keys.cols);
      }
    }
    return back;
  }

 private:
  std::shared_ptr<const Codec> codec_;
};

class Int2Coding : public KeyCoding {
 public:
  explicit Int2Coding(int head_dim) : head_dim_(head_dim) {}

  double key_bytes() const override {
    return head_dim_ * 2 / 8.0 + ScaleCount(head_dim_) * sizeof(F16);
  }

  std::vector<float> RoundTrip(int, MatrixView<const float> keys) const override {
    std::vector<float> back;
    for (size_t i = 0; i < keys.rows; ++i) {
      std::vector<float> row(keys.row(i), keys.row(i) + keys.cols);
      Hadamard(row.data(), head_dim_);
      for (int begin = 0; begin < head_dim_; begin += kScaleDims) {
        RoundBlock(std::span(row).subspan(begin, std::min(kScaleDims, head_dim_ - begin)));
      }
      Hadamard(row.data(), head_dim_);
      back.insert(back.end(), row.begin(), row.end());
    }
    return back;
  }

 private:
  static float Level(float x) { return std::clamp(std::floor(x), -2.0f, 1.0f) + 0.5f; }

  // Codes and the scale that fits them best, in turn, from the step of least error for a Gaussian
  // (J. Max, IRE Transactions on Information Theory 6, 1960).
  static void RoundBlock(std::span<float> x) {
    double squares = 0;
    for (const float value : x) squares += double{value} * value;
    float scale = 0.9957f * static_cast<float>(std::sqrt(squares / static_cast<double>(x.size())));
    if (scale == 0) return;
    for (int round = 0; round < 4; ++round) {
      double products = 0, levels = 0;
      for (const float value : x) {
        const float level = Level(value / scale);
        products += value * level;
        levels += level * level;
      }
      scale = static_cast<float>(products / levels);
    }
    const float stored = ggml_fp16_to_fp32(ggml_fp32_to_fp16(scale));
    for (float& value : x) value = stored * Level(value / scale);
  }

  int head_dim_;
};

}  // namespace

std::unique_ptr<KeyCoding> MakeKeyCoding(const Plan& plan, const ModelInfo& info,
                                         const KeyFrames* frames) {
  if (plan.key_codec == "int2") return std::make_unique<Int2Coding>(info.head_dim);
  std::optional<PqCodebooks> codebooks;
  if (plan.calibration && plan.calibration->codebooks) {
    codebooks = plan.calibration->CodebooksFor(info);
  }
  return std::make_unique<CacheCoding>(
      MakeKeyCodec(plan.key_codec, info.head_dim, codebooks ? &*codebooks : nullptr, frames));
}

std::vector<std::string> KeyCodingNames(const Calibration* calibration) {
  std::vector<std::string> names = {"q8", "q4", "int2"};
  if (calibration == nullptr || !calibration->codebooks) return names;
  for (const auto& [name, centroids] : calibration->codebooks->centroids) names.push_back(name);
  return names;
}

}  // namespace pith
