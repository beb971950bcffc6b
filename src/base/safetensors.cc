#include "base/safetensors.h"

#include <ggml.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/atomic_file.h"
#include "base/fail.h"
#include "base/printable.h"

namespace pith {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors is read in place");

constexpr uint64_t kPrefix = sizeof(uint64_t);     // the header's length
constexpr uint64_t kMaxHeader = 100'000'000;       // the reference implementation's limit
constexpr uint64_t kMaxBytes = uint64_t{1} << 62;  // of one tensor; no sum below can overflow
constexpr const char* kMetadataKey = "__metadata__";

// Bytes of one element; 0 for a dtype that is not known.
uint64_t DtypeSize(std::string_view dtype) {
  static const std::map<std::string_view, uint64_t> sizes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
      {"U16", 2},  {"I16", 2}, {"F16", 2}, {"BF16", 2},    {"U32", 4},
      {"I32", 4},  {"F32", 4}, {"U64", 8}, {"I64", 8},     {"F64", 8}};
  const auto it = sizes.find(dtype);
  return it == sizes.end() ? 0 : it->second;
}

// Bytes of a whole tensor; nothing when that is more than kMaxBytes.
std::optional<uint64_t> TensorSize(uint64_t element_size, std::span<const int64_t> shape) {
  uint64_t size = element_size;
  for (const int64_t dim : shape) {
    if (dim < 0) return std::nullopt;
    if (dim != 0 && size > kMaxBytes / static_cast<uint64_t>(dim)) return std::nullopt;
    size *= static_cast<uint64_t>(dim);
  }
  return size;
}

struct Entry {
  std::optional<std::string> dtype;
  std::optional<std::vector<int64_t>> shape;
  std::optional<std::vector<int64_t>> offsets;
};

// Receives the header's JSON piece by piece and accepts nothing but the one shape a header may
// have, so that a hostile one is refused before it is built in memory.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::map<std::string, Entry> entries;
  std::map<std::string, std::string> metadata;

  const std::string& reason() const { return reason_; }

  bool null() override { return Refuse("null"); }
  bool boolean(bool) override { return Refuse("true or false"); }
  bool number_float(number_float_t, const string_t&) override { return Refuse("a fraction"); }
  bool binary(binary_t&) override { return Refuse("binary data"); }

  bool number_integer(number_integer_t) override { return Refuse("a negative number"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (numbers_ == nullptr) return Refuse("a number");
    if (!std::in_range<int64_t>(value)) return Refuse("a number that is too large");
    numbers_->push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      metadata[key_] = std::move(value);
      return true;
    }
    if (place_ != Place::kEntry || numbers_ != nullptr || key_ != "dtype") {
      return Refuse("a string");
    }
    entry_->dtype = std::move(value);
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::kOutside) {
      place_ = Place::kTop;
      return true;
    }
    if (place_ != Place::kTop) return Refuse("an object");
    place_ = key_ == kMetadataKey ? Place::kMetadata : Place::kEntry;
    return true;
  }

  bool key(string_t& value) override {
    key_ = std::move(value);
    bool is_new = true;
    if (place_ == Place::kTop && key_ == kMetadataKey) {
      is_new = !std::exchange(has_metadata_, true);
    } else if (place_ == Place::kTop) {
      const auto [it, inserted] = entries.try_emplace(key_);
      entry_ = &it->second;
      is_new = inserted;
    } else if (place_ == Place::kMetadata) {
      is_new = metadata.try_emplace(key_).second;
    } else if (key_ == "dtype") {
      is_new = !entry_->dtype.has_value();
    } else if (key_ == "shape") {
      is_new = !entry_->shape.has_value();
    } else if (key_ == "data_offsets") {
      is_new = !entry_->offsets.has_value();
    } else {
      return Stop(fmt::format("there is an unknown field {}", Printable(key_)));
    }
    return is_new || Stop(fmt::format("{} appears twice", Printable(key_)));
  }

  bool end_object() override {
    place_ = place_ == Place::kTop ? Place::kOutside : Place::kTop;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kEntry || numbers_ != nullptr || key_ == "dtype") {
      return Refuse("an array");
    }
    std::optional<std::vector<int64_t>>& list = key_ == "shape" ? entry_->shape : entry_->offsets;
    numbers_ = &list.emplace();
    return true;
  }

  bool end_array() override {
    numbers_ = nullptr;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Stop(fmt::format("it is not JSON at byte {}", position));
  }

 private:
  enum class Place { kOutside, kTop, kMetadata, kEntry };

  bool Stop(std::string reason) {
    reason_ = std::move(reason);
    return false;
  }
  bool Refuse(const char* what) {
    if (place_ == Place::kOutside) return Stop(fmt::format("it is {}, expected an object", what));
    return Stop(fmt::format("there is {} at {}", what, Printable(key_)));
  }

  Place place_ = Place::kOutside;
  std::string key_;
  bool has_metadata_ = false;
  Entry* entry_ = nullptr;
  std::vector<int64_t>* numbers_ = nullptr;  // set inside an array
  std::string reason_;
};

SafeTensor MakeTensor(const std::string& file, const std::string& name, Entry& entry,
                      std::span<const std::byte> data) {
  if (!entry.dtype || !entry.shape || !entry.offsets || entry.offsets->size() != 2) {
    Fail(ErrorCode::kFormat, "{}: the tensor {} lacks dtype, shape or two data_offsets", file,
         Printable(name));
  }
  const uint64_t element_size = DtypeSize(*entry.dtype);
  if (element_size == 0) {
    Fail(ErrorCode::kUnsupported, "{}: the tensor {} has the unknown dtype {}", file,
         Printable(name), Printable(*entry.dtype));
  }
  const auto begin = static_cast<uint64_t>((*entry.offsets)[0]);
  const auto end = static_cast<uint64_t>((*entry.offsets)[1]);
  if (begin > end || end > data.size()) {
    Fail(ErrorCode::kFormat,
         "{}: truncated or damaged: the tensor {} lies at bytes {} to {} of {} bytes of data", file,
         Printable(name), begin, end, data.size());
  }
  const std::optional<uint64_t> size = TensorSize(element_size, *entry.shape);
  if (!size || *size != end - begin) {
    Fail(ErrorCode::kFormat, "{}: the tensor {} has {} bytes, which is not what its shape needs",
         file, Printable(name), end - begin);
  }
  return {std::move(*entry.dtype), std::move(*entry.shape), data.subspan(begin, end - begin)};
}

// The format allows neither overlaps nor gaps.
void CheckCoverage(const std::string& file,
                   const std::map<std::string, SafeTensor, std::less<>>& tensors,
                   std::span<const std::byte> data) {
  std::vector<std::span<const std::byte>> spans;
  spans.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) spans.push_back(tensor.bytes);
  std::sort(spans.begin(), spans.end(), [](const auto& a, const auto& b) {
    return std::pair(a.data(), a.size()) < std::pair(b.data(), b.size());
  });
  const std::byte* expected = data.data();
  for (const auto& span : spans) {
    if (span.data() != expected) {
      Fail(ErrorCode::kFormat, "{}: damaged: tensors overlap or leave a gap at byte {} of the data",
           file, span.data() - data.data());
    }
    expected += span.size();
  }
  const auto covered = static_cast<size_t>(expected - data.data());
  if (covered != data.size()) {
    Fail(ErrorCode::kFormat, "{}: damaged: the tensors cover {} of {} bytes of data", file, covered,
         data.size());
  }
}

template <typename T, typename Convert>
void ConvertAll(std::span<const std::byte> bytes, Convert convert, std::vector<float>& out) {
  for (size_t i = 0; i < out.size(); ++i) {
    T value;  // the file may place an element at any address
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    out[i] = convert(value);
  }
}

}  // namespace

int64_t SafeTensor::n_elements() const {
  int64_t n = 1;
  for (const int64_t dim : shape) n *= dim;
  return n;
}

std::vector<float> SafeTensor::ToFloats() const {
  std::vector<float> floats(static_cast<size_t>(n_elements()));
  if (dtype == "F32") {
    ConvertAll<float>(
        bytes, [](float x) { return x; }, floats);
  } else if (dtype == "F64") {
    ConvertAll<double>(
        bytes, [](double x) { return static_cast<float>(x); }, floats);
  } else if (dtype == "F16") {
    ConvertAll<ggml_fp16_t>(bytes, ggml_fp16_to_fp32, floats);
  } else if (dtype == "BF16") {
    ConvertAll<ggml_bf16_t>(bytes, ggml_bf16_to_fp32, floats);
  } else {
    Fail(ErrorCode::kFormat, "a tensor has the dtype {}, expected F16, BF16, F32 or F64", dtype);
  }
  return floats;
}

std::vector<int32_t> SafeTensor::ToInts() const {
  if (dtype != "I32" && dtype != "I64") {
    Fail(ErrorCode::kFormat, "a tensor has the dtype {}, expected I32 or I64", dtype);
  }
  std::vector<int32_t> ints(static_cast<size_t>(n_elements()));
  if (dtype == "I32") {
    if (!bytes.empty()) std::memcpy(ints.data(), bytes.data(), bytes.size());
    return ints;
  }
  for (size_t i = 0; i < ints.size(); ++i) {
    int64_t value;
    std::memcpy(&value, bytes.data() + i * sizeof(value), sizeof(value));
    if (!std::in_range<int32_t>(value)) {
      Fail(ErrorCode::kFormat, "a tensor holds {}, which is not a 32-bit integer", value);
    }
    ints[i] = static_cast<int32_t>(value);
  }
  return ints;
}

SafeTensors SafeTensors::Open(const std::filesystem::path& file) {
  MappedFile mapped(file);
  SafeTensors result = Parse(mapped.bytes(), file.string());
  result.file_ = std::move(mapped);
  return result;
}

SafeTensors SafeTensors::Parse(std::span<const std::byte> bytes, std::string name) {
  SafeTensors result;
  result.name_ = std::move(name);
  const std::string& file = result.name_;
  if (bytes.empty()) Fail(ErrorCode::kFormat, "{}: is empty, expected a safetensors file", file);
  if (bytes.size() < kPrefix) {
    Fail(ErrorCode::kFormat, "{}: has {} bytes, too few for a safetensors file", file,
         bytes.size());
  }
  uint64_t header_size;
  std::memcpy(&header_size, bytes.data(), kPrefix);
  if (header_size > kMaxHeader || header_size > bytes.size() - kPrefix) {
    Fail(ErrorCode::kFormat,
         "{}: truncated, or not a safetensors file: its header would have {} bytes, at most {} fit",
         file, header_size, std::min<uint64_t>(kMaxHeader, bytes.size() - kPrefix));
  }
  const auto* header = reinterpret_cast<const char*>(bytes.data()) + kPrefix;
  HeaderReader reader;
  if (!nlohmann::json::sax_parse(header, header + header_size, &reader)) {
    Fail(ErrorCode::kFormat, "{}: the safetensors header is damaged: {}", file, reader.reason());
  }
  const auto data = bytes.subspan(kPrefix + header_size);
  for (auto& [tensor_name, entry] : reader.entries) {
    result.tensors_.emplace(tensor_name, MakeTensor(file, tensor_name, entry, data));
  }
  CheckCoverage(file, result.tensors_, data);
  result.metadata_ = std::move(reader.metadata);
  return result;
}

const SafeTensor* SafeTensors::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

const SafeTensor& SafeTensors::Get(std::string_view name) const {
  const SafeTensor* tensor = Find(name);
  if (tensor == nullptr) Fail(ErrorCode::kFormat, "{}: there is no tensor {}", name_, name);
  return *tensor;
}

void WriteSafeTensors(const std::filesystem::path& file,
                      const std::map<std::string, SafeTensor, std::less<>>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  std::vector<std::pair<const std::string*, const SafeTensor*>> order;
  for (const auto& [name, tensor] : tensors) {
    const uint64_t element_size = DtypeSize(tensor.dtype);
    if (name == kMetadataKey || element_size == 0 ||
        TensorSize(element_size, tensor.shape) != tensor.bytes.size()) {
      Fail(ErrorCode::kInvalidArgument,
           "the tensor {} of dtype {} has {} bytes, which is not what its shape needs", name,
           tensor.dtype, tensor.bytes.size());
    }
    order.emplace_back(&name, &tensor);
  }
  // Wide elements first keep every tensor aligned without gaps.
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return DtypeSize(a.second->dtype) > DtypeSize(b.second->dtype);
  });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  size_t offset = 0;
  for (const auto& [name, tensor] : order) {
    header[*name] = {{"dtype", tensor->dtype},
                     {"shape", tensor->shape},
                     {"data_offsets", {offset, offset + tensor->bytes.size()}}};
    offset += tensor->bytes.size();
  }
  std::string text = header.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  text.resize((text.size() + kPrefix - 1) / kPrefix * kPrefix, ' ');
  std::vector<std::byte> bytes(kPrefix + text.size() + offset);
  const uint64_t header_size = text.size();
  std::memcpy(bytes.data(), &header_size, kPrefix);
  std::memcpy(bytes.data() + kPrefix, text.data(), text.size());
  auto out = bytes.begin() + static_cast<ptrdiff_t>(kPrefix + text.size());
  for (const auto& [name, tensor] : order) {
    out = std::copy(tensor->bytes.begin(), tensor->bytes.end(), out);
  }
  WriteFileAtomically(file, bytes);
}

}  // namespace pith
