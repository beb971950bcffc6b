#include "cache/low_rank_codec.h"

#include <algorithm>
#include <utility>

namespace pith {
namespace {

// Coefficients are coded less those of the centre, which all keys have in common.
QuantisedCodec CoefficientsOf(const LowRankShape& shape, const std::vector<LowRankBasis>& bases) {
  KeyFrames frames;
  for (const LowRankBasis& basis : bases) {
    frames.centres.insert(frames.centres.end(), basis.centre().begin(), basis.centre().end());
  }
  frames.spreads.assign(frames.centres.size(), 1.0f);
  return {shape.coefficients, PagePart::kKeys, shape.rank, &frames};
}

}  // namespace

LowRankKeyCodec::LowRankKeyCodec(const LowRankShape& shape, std::vector<LowRankBasis> bases)
    : rank_(shape.rank),
      bases_(std::move(bases)),
      coefficients_(CoefficientsOf(shape, bases_)),
      name_(shape.name()) {}

RowFormat LowRankKeyCodec::Format(int head) const {
  RowFormat format = coefficients_.Format(head);
  format.codebook = bases_[head].directions().data();
  format.rank = rank_;
  return format;
}

size_t LowRankKeyCodec::CodebookBytes() const {
  const auto head_dim = static_cast<int>(bases_[0].directions().size()) / rank_;
  return bases_.size() * LowRankBasis::Bytes(rank_, head_dim);
}

void LowRankKeyCodec::Encode(int head, MatrixView<const float> rows, int slot,
                             std::byte* part) const {
  const auto rank = static_cast<size_t>(rank_);
  std::vector<float> coefficients(rows.rows * rank);
  for (size_t i = 0; i < rows.rows; ++i) {
    bases_[head].Coefficients(rows.row(i), &coefficients[i * rank]);
  }
  coefficients_.Encode(head, {coefficients.data(), rows.rows, rank, rank}, slot, part);
}

void LowRankKeyCodec::Decode(int head, const std::byte* part, int slot, float* row) const {
  std::vector<float> coefficients(static_cast<size_t>(rank_));
  coefficients_.Decode(head, part, slot, coefficients.data());
  bases_[head].Key(coefficients.data(), row);
}

}  // namespace pith
