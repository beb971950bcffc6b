// A GGUF file put together byte by byte, so that any byte can be wrong.
#pragma once

#include <gguf.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pith::testing {

class GgufBytes {
 public:
  template <typename T>
  GgufBytes& Put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  GgufBytes& Raw(std::string_view bytes) {
    bytes_ += bytes;
    return *this;
  }
  GgufBytes& String(std::string_view text) { return Put<uint64_t>(text.size()).Raw(text); }

  GgufBytes& Header(uint64_t n_tensors, uint64_t n_values, uint32_t version = GGUF_VERSION) {
    return Raw(GGUF_MAGIC).Put(version).Put(n_tensors).Put(n_values);
  }
  GgufBytes& Key(std::string_view key, uint32_t type) { return String(key).Put(type); }
  template <typename T>
  GgufBytes& Value(std::string_view key, uint32_t type, T value) {
    return Key(key, type).Put(value);
  }
  GgufBytes& Text(std::string_view key, std::string_view text) {
    return Key(key, GGUF_TYPE_STRING).String(text);
  }
  GgufBytes& ArrayHeader(std::string_view key, uint32_t type, uint64_t n) {
    return Key(key, GGUF_TYPE_ARRAY).Put(type).Put(n);
  }
  GgufBytes& Tensor(std::string_view name, const std::vector<int64_t>& shape, uint32_t type,
                    uint64_t offset) {
    String(name).Put(static_cast<uint32_t>(shape.size()));
    for (const int64_t dim : shape) Put(dim);
    return Put(type).Put(offset);
  }
  GgufBytes& Pad(size_t alignment) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }

  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

}  // namespace pith::testing
