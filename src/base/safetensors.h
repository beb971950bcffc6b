// Reading and writing safetensors: an 8-byte header length, a JSON header, raw little-endian data.
// Format: https://github.com/huggingface/safetensors
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"

namespace pith {

struct SafeTensor {
  std::string dtype;  // "F32", "F16", "BF16", "F64", "I32", "I64", "U8", ...
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;

  int64_t n_elements() const;
  // Throws Error(kFormat) unless the dtype is a float type (F16, BF16, F32, F64).
  std::vector<float> ToFloats() const;
  // Throws Error(kFormat) unless the dtype is I32 or I64 and every value fits.
  std::vector<int32_t> ToInts() const;
};

class SafeTensors {
 public:
  // Throws Error(kNotFound, kIo, kFormat). Every length and offset is checked before use.
  static SafeTensors Open(const std::filesystem::path& file);
  // `bytes` must outlive the result; `name` is for messages.
  static SafeTensors Parse(std::span<const std::byte> bytes, std::string name);

  const SafeTensor* Find(std::string_view name) const;  // null if there is none
  const SafeTensor& Get(std::string_view name) const;   // throws Error(kFormat)
  const std::map<std::string, SafeTensor, std::less<>>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& name() const { return name_; }

 private:
  MappedFile file_;
  std::string name_;
  std::map<std::string, SafeTensor, std::less<>> tensors_;
  std::map<std::string, std::string> metadata_;
};

// Writes atomically, without gaps as the format demands: wide elements first, then by name, so that
// every tensor is aligned to its element. Throws Error(kIo), or Error(kInvalidArgument) when a
// tensor's bytes are not what its dtype and shape need.
void WriteSafeTensors(const std::filesystem::path& file,
                      const std::map<std::string, SafeTensor, std::less<>>& tensors,
                      const std::map<std::string, std::string>& metadata);

}  // namespace pith
