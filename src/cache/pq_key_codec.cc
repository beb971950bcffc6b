#include "cache/pq_key_codec.h"

#include <cmath>
#include <utility>

#include "base/fail.h"

namespace pith {

PqKeyCodec::PqKeyCodec(std::vector<PqCodebook> codebooks) : codebooks_(std::move(codebooks)) {
  if (codebooks_.empty()) {
    Fail(ErrorCode::kInvalidArgument, "Keys are to be stored as codes of no codebook.");
  }
  name_ = codebooks_[0].shape().name();
}

RowFormat PqKeyCodec::Format(int head) const {
  const PqCodebook& book = codebooks_[static_cast<size_t>(head)];
  return {book.shape().bits == 8 ? CodecId::kPq8 : CodecId::kPq4, book.packed().data(),
          book.shape().n_subspaces};
}

size_t PqKeyCodec::CodebookBytes() const {
  return codebooks_.size() * PqCodebook::Bytes(codebooks_[0].shape(), codebooks_[0].head_dim());
}

void PqKeyCodec::Encode(int head, MatrixView<const float> rows, int slot, std::byte* part) const {
  const RowFormat format = Format(head);
  for (size_t i = 0; i < rows.rows; ++i) {
    for (size_t d = 0; d < rows.cols; ++d) {
      if (std::isfinite(rows.row(i)[d])) continue;
      Fail(ErrorCode::kInvalidArgument,
           "A key of head {} has an element {}, for which {} has no code; expected finite keys.",
           head, rows.row(i)[d], name_);
    }
  }
  const size_t n_codes = format.n_subspaces;
  std::vector<uint8_t> codes(rows.rows * n_codes);
  codebooks_[head].Encode(rows, codes);
  for (size_t i = 0; i < rows.rows; ++i, ++slot) {
    for (int m = 0; m < format.n_subspaces; ++m) {
      const PqPlace place = PqCode(format, slot, m);
      const std::byte code{codes[i * n_codes + m]};
      const std::byte mask = format.id == CodecId::kPq8 ? std::byte{0xff} : std::byte{0xf};
      std::byte& byte = part[place.byte];
      byte = (byte & ~(mask << place.shift)) | code << place.shift;
    }
  }
}

void PqKeyCodec::Decode(int head, const std::byte* part, int slot, float* row) const {
  const RowFormat format = Format(head);
  std::vector<uint8_t> codes(format.n_subspaces);
  for (int m = 0; m < format.n_subspaces; ++m) {
    const PqPlace place = PqCode(format, slot, m);
    const auto byte = static_cast<uint8_t>(part[place.byte]);
    codes[m] = format.id == CodecId::kPq8 ? byte : byte >> place.shift & 0xf;
  }
  codebooks_[head].Decode(codes, row);
}

void PqKeyCodec::Move(const std::byte* from, int from_slot, std::byte* to, int to_slot) const {
  const RowFormat format = Format(0);
  for (int m = 0; m < format.n_subspaces; ++m) {
    to[PqCode(format, to_slot, m).byte] = from[PqCode(format, from_slot, m).byte];
  }
}

}  // namespace pith
