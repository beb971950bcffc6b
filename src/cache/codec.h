// How the K or V rows of a page are stored.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "base/matrix_view.h"

namespace pith {

enum class CodecId { kF16 };  // kernels are chosen by it

// Lays out the rows of the 64 entries of a page, either all keys or all values. Stateless, safe to
// call from many threads; rows of one page may be written by several threads at once.
class Codec {
 public:
  virtual ~Codec() = default;
  virtual CodecId id() const = 0;
  virtual size_t PageBytes(int head_dim) const = 0;  // a multiple of 64

  // rows [n, head_dim] become entries slot..slot+n-1 of a page's part, slot + n <= 64.
  virtual void Encode(MatrixView<const float> rows, int slot, std::byte* part) const = 0;
  // The row [head_dim] as a kernel sees it.
  virtual void Decode(const std::byte* part, int slot, int head_dim, float* row) const = 0;
  // Copies one entry as it is, from page to page or within one.
  virtual void Move(const std::byte* from, int from_slot, std::byte* to, int to_slot,
                    int head_dim) const = 0;
};

// Known: "f16". Throw Error(kInvalidArgument) naming the known ones.
std::unique_ptr<Codec> MakeKeyCodec(std::string_view name);
std::unique_ptr<Codec> MakeValueCodec(std::string_view name);

}  // namespace pith
