// A memory-mapped GGUF file: metadata with checked types, tensors with checked bounds.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

struct gguf_context;
struct ggml_context;
struct ggml_tensor;

namespace pith {

class GgufFile {
 public:
  // Maps and parses. Throws Error(kNotFound, kIo, kFormat); a damaged file never crashes.
  static GgufFile Open(const std::filesystem::path& file);
  // Parses bytes that the caller keeps alive; `name` is for messages.
  static GgufFile Parse(std::span<const std::byte> bytes, std::string name);

  ~GgufFile();
  GgufFile(GgufFile&&) noexcept;
  GgufFile& operator=(GgufFile&&) noexcept;

  // Metadata. The plain forms throw Error(kFormat) when the key is missing or of another kind;
  // Find* return nothing when it is missing and throw when it is of another kind. Integers of any
  // width and sign are accepted where they fit.
  bool Has(std::string_view key) const;
  std::string String(std::string_view key) const;
  int64_t Int(std::string_view key) const;
  double Float(std::string_view key) const;
  std::optional<std::string> FindString(std::string_view key) const;
  std::optional<int64_t> FindInt(std::string_view key) const;
  std::optional<double> FindFloat(std::string_view key) const;
  std::optional<bool> FindBool(std::string_view key) const;
  std::vector<std::string> Strings(std::string_view key) const;  // an array of strings
  std::vector<int64_t> Ints(std::string_view key) const;         // an array of integers
  std::vector<float> Floats(std::string_view key) const;         // an array of floats

  // Tensors, metadata only: `data` of each is null; their bytes are TensorBytes.
  ggml_context* tensors() const;
  const ggml_tensor* FindTensor(std::string_view name) const;  // null if there is none
  std::span<const std::byte> TensorBytes(const ggml_tensor& tensor) const;

  // Gives the memory of bytes that were copied elsewhere back to the system; they can still be
  // read.
  void Release(std::span<const std::byte> bytes) const;

  const std::string& name() const;                  // for messages
  std::span<const std::byte> bytes() const;         // the whole file
  std::span<const std::byte> header_bytes() const;  // everything before the tensor data

 private:
  struct Impl;
  explicit GgufFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pith
