#include "calibrate/keep_curves.h"

#include <fmt/ranges.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "calibrate/kvzap_file.h"

namespace pith {
namespace {

constexpr const char* kTensor = "keep_loss";

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using RowsView = Eigen::Map<const Rows, 0, Eigen::OuterStride<>>;

Eigen::Index Index(size_t n) { return static_cast<Eigen::Index>(n); }

RowsView View(const MatrixView<const float>& rows) {
  return {rows.data, Index(rows.rows), Index(rows.cols), Eigen::OuterStride<>(Index(rows.stride))};
}

// The queries of one query head, and what attention over some of the tokens gives them.
class Attention {
 public:
  Attention(const HeadText& text, int g) : values_(View(text.values)) {
    const RowsView keys = View(text.keys);
    const RowsView all = View(text.queries);
    const Eigen::Index n_queries = all.rows() / text.group;
    Rows queries(n_queries, all.cols());
    for (Eigen::Index j = 0; j < n_queries; ++j) queries.row(j) = all.row(j * text.group + g);
    weights_ = queries * keys.transpose() / std::sqrt(static_cast<float>(keys.cols()));
    for (Eigen::Index j = 0; j < n_queries; ++j) {
      const Eigen::Index n_seen = keys.rows() - n_queries + j + 1;
      auto row = weights_.row(j).array();
      row.head(n_seen) = (row.head(n_seen) - row.head(n_seen).maxCoeff()).exp();
      row.tail(keys.rows() - n_seen) = 0;
    }
    sum_ = Eigen::VectorXf::Zero(n_queries);
    vector_ = Rows::Zero(n_queries, values_.cols());
  }

  void Add(std::span<const int32_t> tokens) {
    if (tokens.empty()) return;
    Rows weights(weights_.rows(), Index(tokens.size()));
    Rows values(Index(tokens.size()), values_.cols());
    for (size_t i = 0; i < tokens.size(); ++i) {
      weights.col(Index(i)) = weights_.col(tokens[i]);
      values.row(Index(i)) = values_.row(tokens[i]);
    }
    sum_ += weights.rowwise().sum();
    vector_ += weights * values;
  }

  Rows Output() const { return vector_.array().colwise() / sum_.array(); }

 private:
  RowsView values_;
  Rows weights_;  // [n_queries, n_tokens], each row's largest is 1
  Eigen::VectorXf sum_;
  Rows vector_;
};

double MeanSquare(const OutputNorm& output_norm, int g, const Rows& rows) {
  std::vector<float> norms(static_cast<size_t>(rows.rows()));
  const auto cols = static_cast<size_t>(rows.cols());
  output_norm(g, {rows.data(), norms.size(), cols, cols}, norms);
  double sum = 0;
  for (const float norm : norms) sum += double{norm} * norm;
  return sum / static_cast<double>(norms.size());
}

}  // namespace

void AddLossOfKeeping(const HeadText& text, const OutputNorm& output_norm, std::span<double> curve,
                      double& output) {
  std::vector<int32_t> stays;
  std::vector<bool> may_go(text.keys.rows);
  for (const int32_t token : text.order) may_go[static_cast<size_t>(token)] = true;
  for (size_t i = 0; i < may_go.size(); ++i) {
    if (!may_go[i]) stays.push_back(static_cast<int32_t>(i));
  }
  for (int g = 0; g < text.group; ++g) {
    Attention all(text, g);
    Attention part = all;
    all.Add(stays);
    all.Add(text.order);
    const Rows wanted = all.Output();
    output += MeanSquare(output_norm, g, wanted);
    part.Add(stays);
    size_t kept = 0;
    for (int i = 0; i + 1 < KeepCurves::kPoints; ++i) {  // nothing is lost where all is kept
      const auto n = static_cast<size_t>(
          std::lround(KeepCurves::Share(i) * static_cast<double>(text.order.size())));
      part.Add(text.order.subspan(kept, n - kept));
      kept = n;
      curve[static_cast<size_t>(i)] += MeanSquare(output_norm, g, part.Output() - wanted);
    }
  }
}

std::optional<KeepCurves> ReadKeepCurves(const SafeTensors& tensors) {
  if (!tensors.Find(kTensor)) return std::nullopt;
  const std::vector<int64_t>& shape = tensors.Get(kTensor).shape;
  constexpr int64_t kMost = int64_t{1} << 16;
  if (shape.size() != 3 || shape[0] < 1 || shape[0] > kMost || shape[1] < 1 || shape[1] > kMost ||
      shape[2] != KeepCurves::kPoints) {
    Fail(ErrorCode::kFormat, "{}: {} is [{}], expected [layers, KV heads, {}]", tensors.name(),
         kTensor, fmt::join(shape, ", "), KeepCurves::kPoints);
  }
  KeepCurves curves{static_cast<int>(shape[0]), static_cast<int>(shape[1]),
                    FiniteFloats(tensors, kTensor)};
  const auto least = std::min_element(curves.loss.begin(), curves.loss.end());
  if (*least < 0) {
    Fail(ErrorCode::kFormat, "{}: a loss in {} is {}, expected 0 or more", tensors.name(), kTensor,
         *least);
  }
  return curves;
}

void AddKeepCurves(const KeepCurves& curves,
                   std::map<std::string, SafeTensor, std::less<>>& tensors) {
  tensors[kTensor] = {"F32",
                      {curves.n_layers, curves.n_kv_heads, KeepCurves::kPoints},
                      std::as_bytes(std::span(curves.loss))};
}

}  // namespace pith
