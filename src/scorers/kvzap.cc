#include <Eigen/Core>
#include <cmath>
#include <memory>
#include <numbers>
#include <utility>
#include <vector>

#include "base/fail.h"
#include "scorers/methods.h"

namespace pith {
namespace {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Rows = Eigen::Map<const RowMajor, 0, Eigen::OuterStride<>>;

// Tokens whose hidden layer is computed at once, so that it stays in the cache.
constexpr Eigen::Index kBlock = 64;

// The exact form, 0.5 x (1 + erf(x / sqrt 2)), with which published surrogates were trained.
float Gelu(float x) { return 0.5f * x * (1.0f + std::erf(x * (std::numbers::sqrt2_v<float> / 2))); }

class Kvzap : public Scorer {
 public:
  Kvzap(std::shared_ptr<const Calibration> calibration)
      : calibration_(std::move(calibration)), surrogate_(*calibration_->kvzap) {}

  Needs needs() const override { return {.hidden_states = true}; }
  bool comparable_across_heads() const override { return true; }

  void ScoreHidden(const HiddenStates& hidden, std::span<float> worth) const override {
    const KvzapLayer& layer = surrogate_.layers[hidden.layer];
    const auto n = static_cast<Eigen::Index>(hidden.rows.rows);
    const Rows rows(hidden.rows.data, n, surrogate_.n_embd,
                    Eigen::OuterStride<>(static_cast<Eigen::Index>(hidden.rows.stride)));
    Eigen::Map<RowMajor> out(worth.data(), surrogate_.n_kv_heads, n);
    if (surrogate_.n_hidden == 0) {
      Apply(layer.weight, layer.bias, rows, out);
      return;
    }
    RowMajor inner(surrogate_.n_hidden, std::min(kBlock, n));
    for (Eigen::Index begin = 0; begin < n; begin += kBlock) {
      const Eigen::Index count = std::min(kBlock, n - begin);
      auto block = inner.leftCols(count);
      Apply(layer.weight_in, layer.bias_in, rows.middleRows(begin, count), block);
      for (Eigen::Index i = 0; i < block.rows(); ++i) {
        for (Eigen::Index j = 0; j < count; ++j) block(i, j) = Gelu(block(i, j));
      }
      auto target = out.middleCols(begin, count);
      target.noalias() = Matrix(layer.weight, layer.bias.size()) * block;
      target.colwise() += Vector(layer.bias);
    }
  }

 private:
  static Rows Matrix(const std::vector<float>& weight, size_t n_rows) {
    const auto rows = static_cast<Eigen::Index>(n_rows);
    const auto cols = static_cast<Eigen::Index>(weight.size()) / rows;
    return Rows(weight.data(), rows, cols, Eigen::OuterStride<>(cols));
  }
  static Eigen::Map<const Eigen::VectorXf> Vector(const std::vector<float>& values) {
    return Eigen::Map<const Eigen::VectorXf>(values.data(),
                                             static_cast<Eigen::Index>(values.size()));
  }

  // out = weight rows^T + bias. [bias.size(), rows.rows()]
  template <typename In, typename Out>
  static void Apply(const std::vector<float>& weight, const std::vector<float>& bias,
                    const In& rows, Out&& out) {
    const Rows matrix = Matrix(weight, bias.size());
    if (rows.rows() == 1) {  // as a product of matrices it would be packed for nothing
      for (Eigen::Index i = 0; i < matrix.rows(); ++i) {
        out(i, 0) = matrix.row(i).dot(rows.row(0)) + bias[static_cast<size_t>(i)];
      }
      return;
    }
    out.noalias() = matrix * rows.transpose();
    out.colwise() += Vector(bias);
  }

  std::shared_ptr<const Calibration> calibration_;
  const KvzapSurrogate& surrogate_;
};

}  // namespace

std::unique_ptr<Scorer> MakeKvzap(const Plan& plan, const ModelInfo& model) {
  if (plan.calibration == nullptr || !plan.calibration->kvzap) {
    Fail(ErrorCode::kInvalidArgument,
         "the scorer kvzap needs a calibration of the model with a surrogate, but {}; \"pith "
         "calibrate --kvzap linear -m MODEL -o X.pithcal\" makes one",
         plan.calibration == nullptr ? "there is no calibration" : "this one has none");
  }
  plan.calibration->CheckFits(model);
  return std::make_unique<Kvzap>(plan.calibration);
}

}  // namespace pith
