#include "model/output_norm.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "model/weight_rows.h"

namespace pith {
namespace {

template <typename T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr int64_t kBlockRows = 128;  // whose norms are taken at a time

}  // namespace

OutputNorms::OutputNorms(const GgufFile& file, const HyperParams& hparams)
    : file_(file),
      n_embd_(hparams.n_embd),
      n_heads_(hparams.n_heads),
      head_dim_(hparams.head_dim),
      layers_(std::make_unique<Layer[]>(static_cast<size_t>(hparams.n_layers))) {}

OutputNorms::~OutputNorms() = default;

void OutputNorms::Make(int layer, std::vector<float>& gram) const {
  const int64_t n_in = int64_t{n_heads_} * head_dim_;
  RowMajor<double> sum = RowMajor<double>::Zero(n_in, head_dim_);  // the heads below each other
  ForEachWeightRows(file_, fmt::format("blk.{}.attn_output.weight", layer), n_in, n_embd_,
                    [&](int64_t, MatrixView<const float> rows) {
                      const Eigen::Map<const RowMajor<float>> all(
                          rows.data, static_cast<Eigen::Index>(rows.rows), n_in);
                      for (int64_t head = 0; head < n_heads_; ++head) {
                        const auto part = all.middleCols(head * head_dim_, head_dim_);
                        const RowMajor<float> product = part.transpose() * part;
                        sum.middleRows(head * head_dim_, head_dim_) += product.cast<double>();
                      }
                    });
  gram.resize(static_cast<size_t>(n_in * head_dim_));
  Eigen::Map<RowMajor<float>>(gram.data(), n_in, head_dim_) = sum.cast<float>();
}

void OutputNorms::Norms(int layer, int q_head, MatrixView<const float> values,
                        std::span<float> norms) const {
  Layer& of_layer = layers_[static_cast<size_t>(layer)];
  std::call_once(of_layer.once, [&] { Make(layer, of_layer.gram); });
  const Eigen::Map<const RowMajor<float>> gram(
      of_layer.gram.data() + size_t{1} * q_head * head_dim_ * head_dim_, head_dim_, head_dim_);
  const auto n_rows = static_cast<int64_t>(values.rows);
  RowMajor<float> product;
  for (int64_t begin = 0; begin < n_rows; begin += kBlockRows) {
    const int64_t n = std::min(kBlockRows, n_rows - begin);
    const Eigen::Map<const RowMajor<float>, 0, Eigen::OuterStride<>> block(
        values.row(static_cast<size_t>(begin)), n, head_dim_,
        Eigen::OuterStride<>(static_cast<Eigen::Index>(values.stride)));
    product.noalias() = block * gram;
    Eigen::Map<Eigen::VectorXf>(norms.data() + begin, n) =
        product.cwiseProduct(block).rowwise().sum().cwiseMax(0.0f).cwiseSqrt();
  }
}

}  // namespace pith
