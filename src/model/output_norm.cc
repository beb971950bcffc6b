#include "model/output_norm.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstring>

#include <fmt/format.h>
#include <ggml.h>

#include "base/fail.h"

namespace pith {
namespace {

template <typename T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Rows that are worked on at a time, so that no whole matrix is laid out in floats.
constexpr int64_t kBlockRows = 128;

}  // namespace

OutputNorms::OutputNorms(const GgufFile& file, const HyperParams& hparams)
    : file_(file),
      n_embd_(hparams.n_embd),
      n_heads_(hparams.n_heads),
      head_dim_(hparams.head_dim),
      layers_(std::make_unique<Layer[]>(static_cast<size_t>(hparams.n_layers))) {}

OutputNorms::~OutputNorms() = default;

void OutputNorms::Make(int layer, std::vector<float>& gram) const {
  const std::string name = fmt::format("blk.{}.attn_output.weight", layer);
  const ggml_tensor* tensor = file_.FindTensor(name);
  if (!tensor) Fail(ErrorCode::kFormat, "{}: tensor {} is missing", file_.name(), name);
  const int64_t n_in = int64_t{n_heads_} * head_dim_;
  if (tensor->ne[0] != n_in || ggml_nrows(tensor) != n_embd_) {
    Fail(ErrorCode::kFormat, "{}: tensor {} has shape [{}, {}], expected [{}, {}]", file_.name(),
         name, tensor->ne[0], ggml_nrows(tensor), n_in, n_embd_);
  }
  const auto to_float = ggml_get_type_traits(tensor->type)->to_float;
  if (!to_float && tensor->type != GGML_TYPE_F32) {
    Fail(ErrorCode::kUnsupported, "{}: tensor {} is of type {}, which cannot be turned into floats",
         file_.name(), name, ggml_type_name(tensor->type));
  }

  const auto bytes = file_.TensorBytes(*tensor);
  const size_t row_bytes = ggml_row_size(tensor->type, n_in);
  RowMajor<float> rows(std::min<int64_t>(kBlockRows, n_embd_), n_in);
  RowMajor<double> sum = RowMajor<double>::Zero(n_in, head_dim_);  // the heads below each other
  for (int64_t begin = 0; begin < n_embd_; begin += rows.rows()) {
    const int64_t n = std::min<int64_t>(rows.rows(), n_embd_ - begin);
    for (int64_t i = 0; i < n; ++i) {
      const std::byte* row = bytes.data() + static_cast<size_t>(begin + i) * row_bytes;
      if (to_float) {
        to_float(row, rows.row(i).data(), n_in);
      } else {
        std::memcpy(rows.row(i).data(), row, row_bytes);
      }
    }
    for (int64_t head = 0; head < n_heads_; ++head) {
      const auto part = rows.block(0, head * head_dim_, n, head_dim_);
      const RowMajor<float> product = part.transpose() * part;
      sum.middleRows(head * head_dim_, head_dim_) += product.cast<double>();
    }
  }
  file_.Release(bytes);
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
