// The container format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
//
// ggml's own reader trusts counts, compares every key with every other and ends the process where
// it finds a wrong type; this one reads the bytes in place, so that a file can do none of that.
#include "base/gguf_file.h"

#include <ggml.h>
#include <gguf.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "base/fail.h"
#include "base/mapped_file.h"
#include "base/printable.h"

namespace pith {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is read in place");

constexpr uint64_t kMinAlignment = 8;  // the format asks for a multiple of 8
constexpr uint64_t kMaxAlignment = 1 << 16;
constexpr uint64_t kMaxTensorElements = uint64_t{1} << 48;  // no product below can overflow

struct GgmlFree {
  void operator()(ggml_context* context) const { ggml_free(context); }
};

// One metadata value, still in the file. `data` is valid for `count` elements of `type`.
struct Value {
  gguf_type type = GGUF_TYPE_COUNT;  // of the elements, for an array
  bool is_array = false;
  uint64_t count = 1;
  const std::byte* data = nullptr;
};

struct TensorInfo {
  std::string_view name;
  int n_dims = 0;
  int64_t shape[GGML_MAX_DIMS] = {1, 1, 1, 1};
  ggml_type type = GGML_TYPE_COUNT;
  uint64_t offset = 0;   // into the tensor data
  uint64_t n_bytes = 0;  // never overflows, see kMaxTensorElements
};

// Bytes of one element of a fixed-size type; 0 for strings, arrays and unknown types.
uint64_t ElementSize(uint32_t type) {
  switch (type) {
    case GGUF_TYPE_UINT8:
    case GGUF_TYPE_INT8:
    case GGUF_TYPE_BOOL:
      return 1;
    case GGUF_TYPE_UINT16:
    case GGUF_TYPE_INT16:
      return 2;
    case GGUF_TYPE_UINT32:
    case GGUF_TYPE_INT32:
    case GGUF_TYPE_FLOAT32:
      return 4;
    case GGUF_TYPE_UINT64:
    case GGUF_TYPE_INT64:
    case GGUF_TYPE_FLOAT64:
      return 8;
    default:
      return 0;
  }
}

std::string Describe(const Value& value) {
  const char* type = gguf_type_name(value.type);
  if (!value.is_array) return type;
  return fmt::format("array of {} {}", value.count, type);
}

template <typename T>
T Load(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

// Walks the header, never past its end.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  uint64_t position() const { return position_; }
  uint64_t left() const { return bytes_.size() - position_; }

  const std::byte* Take(uint64_t n, const char* what) {
    if (n > left()) {
      Fail(ErrorCode::kFormat,
           "{}: truncated or damaged: {} at byte {} needs {} bytes, but only {} are left", name_,
           what, position_, n, left());
    }
    const std::byte* data = bytes_.data() + position_;
    position_ += n;
    return data;
  }

  template <typename T>
  T Read(const char* what) {
    return Load<T>(Take(sizeof(T), what));
  }

  std::string_view ReadString(const char* what) {
    const auto length = Read<uint64_t>(what);
    const std::byte* data = Take(length, what);
    return {reinterpret_cast<const char*>(data), static_cast<size_t>(length)};
  }

  // A number of things that take at least `least` bytes each.
  uint64_t ReadCount(uint64_t least, const char* what) {
    const auto count = Read<uint64_t>(what);
    CheckCount(count, least, what);
    return count;
  }

  void CheckCount(uint64_t count, uint64_t least, const char* what) const {
    if (count > left() / least) {
      Fail(ErrorCode::kFormat, "{}: truncated or damaged: {} {} cannot fit into {} bytes", name_,
           count, what, left());
    }
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& name_;
  uint64_t position_ = 0;
};

}  // namespace

struct GgufFile::Impl {
  MappedFile file;
  std::string name;
  std::span<const std::byte> bytes;
  uint64_t data_start = 0;
  std::unordered_map<std::string_view, Value> values;
  std::vector<TensorInfo> infos;
  std::unordered_map<std::string_view, size_t> tensor_index;
  std::unique_ptr<ggml_context, GgmlFree> tensors;
  std::vector<const ggml_tensor*> by_index;  // beside infos

  void ReadHeader();
  void ReadValue(Cursor& cursor);
  void ReadTensorInfo(Cursor& cursor);
  void CheckTensorData(uint64_t alignment) const;
  uint64_t Alignment() const;
  void MakeTensors();

  const Value* Find(std::string_view key) const {
    const auto it = values.find(key);
    return it == values.end() ? nullptr : &it->second;
  }
  const Value& Need(std::string_view key) const {
    const Value* value = Find(key);
    if (value == nullptr) {
      Fail(ErrorCode::kFormat, "{}: the metadata key {} is missing", name, Printable(key));
    }
    return *value;
  }
  [[noreturn]] void WrongKind(std::string_view key, const Value& value,
                              const char* expected) const {
    Fail(ErrorCode::kFormat, "{}: the metadata key {} is {}, expected {}", name, Printable(key),
         Describe(value), expected);
  }

  std::string ToString(std::string_view key, const Value& value) const;
  int64_t ToInt(std::string_view key, const Value& value) const;
  double ToFloat(std::string_view key, const Value& value) const;
  int64_t IntElement(std::string_view key, const Value& value, uint64_t i,
                     const char* expected) const;
};

void GgufFile::Impl::ReadHeader() {
  if (bytes.empty()) Fail(ErrorCode::kFormat, "{}: is empty, expected a GGUF file", name);
  constexpr size_t kMagicSize = sizeof(GGUF_MAGIC) - 1;
  const std::string_view magic(reinterpret_cast<const char*>(bytes.data()),
                               std::min(bytes.size(), kMagicSize));
  if (magic != GGUF_MAGIC) {
    Fail(ErrorCode::kFormat, "{}: is not a GGUF file: it starts with \"{}\", expected \"{}\"", name,
         Printable(magic), GGUF_MAGIC);
  }
  Cursor cursor(bytes, name);
  cursor.Take(kMagicSize, "the magic");
  const auto version = cursor.Read<uint32_t>("the version");
  if (version != 0 && (version & 0xFFFF) == 0) {
    Fail(ErrorCode::kUnsupported, "{}: is a big-endian GGUF file, expected a little-endian one",
         name);
  }
  if (version < 2 || version > GGUF_VERSION) {
    Fail(ErrorCode::kUnsupported, "{}: is a GGUF file of version {}, expected 2 or {}", name,
         version, GGUF_VERSION);
  }
  // A name's length, the number of dimensions, one dimension, type and offset.
  constexpr uint64_t kLeastTensor = 8 + 4 + 8 + 4 + 8;
  constexpr uint64_t kLeastValue = 8 + 4 + 1;  // a key's length, type, one byte
  const uint64_t n_tensors = cursor.ReadCount(kLeastTensor, "tensors");
  const uint64_t n_values = cursor.ReadCount(kLeastValue, "metadata keys");
  for (uint64_t i = 0; i < n_values; ++i) ReadValue(cursor);
  const uint64_t alignment = Alignment();
  cursor.CheckCount(n_tensors, kLeastTensor, "tensors");
  for (uint64_t i = 0; i < n_tensors; ++i) ReadTensorInfo(cursor);
  data_start = (cursor.position() + alignment - 1) / alignment * alignment;
  if (n_tensors == 0) data_start = cursor.position();
  CheckTensorData(alignment);
  MakeTensors();
}

void GgufFile::Impl::ReadValue(Cursor& cursor) {
  const std::string_view key = cursor.ReadString("a metadata key");
  Value value;
  auto type = cursor.Read<uint32_t>("a metadata type");
  if (type == GGUF_TYPE_ARRAY) {
    value.is_array = true;
    type = cursor.Read<uint32_t>("an array's type");
    value.count = cursor.Read<uint64_t>("an array's length");
  }
  const uint64_t size = ElementSize(type);
  if (size == 0 && type != GGUF_TYPE_STRING) {
    Fail(ErrorCode::kFormat, "{}: the metadata key {} has the unknown type {}", name,
         Printable(key), type);
  }
  value.type = static_cast<gguf_type>(type);
  if (type == GGUF_TYPE_STRING) {
    cursor.CheckCount(value.count, sizeof(uint64_t), "strings");
    value.data = cursor.Take(0, "a string");
    for (uint64_t i = 0; i < value.count; ++i) cursor.ReadString("a string");
  } else {
    cursor.CheckCount(value.count, size, "array elements");
    value.data = cursor.Take(value.count * size, "a metadata value");
  }
  if (!values.emplace(key, value).second) {
    Fail(ErrorCode::kFormat, "{}: the metadata key {} appears twice", name, Printable(key));
  }
}

void GgufFile::Impl::ReadTensorInfo(Cursor& cursor) {
  TensorInfo info;
  info.name = cursor.ReadString("a tensor's name");
  if (info.name.empty() || info.name.size() >= GGML_MAX_NAME ||
      info.name.find('\0') != std::string_view::npos) {
    Fail(ErrorCode::kFormat, "{}: the tensor name \"{}\" is not one of 1 to {} characters", name,
         Printable(info.name), GGML_MAX_NAME - 1);
  }
  const auto n_dims = cursor.Read<uint32_t>("a tensor's number of dimensions");
  if (n_dims < 1 || n_dims > GGML_MAX_DIMS) {
    Fail(ErrorCode::kFormat, "{}: the tensor {} has {} dimensions, expected 1 to {}", name,
         Printable(info.name), n_dims, GGML_MAX_DIMS);
  }
  info.n_dims = static_cast<int>(n_dims);
  uint64_t n_elements = 1;
  for (uint32_t d = 0; d < n_dims; ++d) {
    info.shape[d] = cursor.Read<int64_t>("a tensor's shape");
    const auto dim = static_cast<uint64_t>(info.shape[d]);
    if (info.shape[d] <= 0 || dim > kMaxTensorElements / n_elements) {
      Fail(ErrorCode::kFormat, "{}: dimension {} of the tensor {} is {}, too {}", name, d,
           Printable(info.name), info.shape[d], info.shape[d] <= 0 ? "small" : "large");
    }
    n_elements *= dim;
  }
  const auto type = cursor.Read<uint32_t>("a tensor's type");
  const auto ggml = static_cast<ggml_type>(std::min<uint32_t>(type, GGML_TYPE_COUNT));
  // Types that ggml has removed keep their number and have no size.
  if (ggml == GGML_TYPE_COUNT || ggml_blck_size(ggml) == 0 || ggml_type_size(ggml) == 0) {
    Fail(ErrorCode::kUnsupported,
         "{}: the tensor {} has the type {}, which this ggml does not know", name,
         Printable(info.name), type);
  }
  const auto block = static_cast<uint64_t>(ggml_blck_size(ggml));
  if (static_cast<uint64_t>(info.shape[0]) % block != 0) {
    Fail(ErrorCode::kFormat,
         "{}: the rows of the tensor {} have {} elements, expected a multiple of the {} of {}",
         name, Printable(info.name), info.shape[0], block, ggml_type_name(ggml));
  }
  info.type = ggml;
  info.n_bytes = n_elements / block * ggml_type_size(ggml);
  info.offset = cursor.Read<uint64_t>("a tensor's offset");
  if (!tensor_index.emplace(info.name, infos.size()).second) {
    Fail(ErrorCode::kFormat, "{}: the tensor {} appears twice", name, Printable(info.name));
  }
  infos.push_back(info);
}

uint64_t GgufFile::Impl::Alignment() const {
  const Value* value = Find(GGUF_KEY_GENERAL_ALIGNMENT);
  if (value == nullptr) return GGUF_DEFAULT_ALIGNMENT;
  const int64_t signed_alignment = ToInt(GGUF_KEY_GENERAL_ALIGNMENT, *value);
  const auto alignment = static_cast<uint64_t>(signed_alignment);
  if (!std::has_single_bit(alignment) || alignment < kMinAlignment || alignment > kMaxAlignment) {
    Fail(ErrorCode::kFormat, "{}: the alignment is {}, expected a power of two from {} to {}", name,
         signed_alignment, kMinAlignment, kMaxAlignment);
  }
  return alignment;
}

void GgufFile::Impl::CheckTensorData(uint64_t alignment) const {
  const uint64_t size = bytes.size() - std::min<uint64_t>(data_start, bytes.size());
  for (const TensorInfo& info : infos) {
    if (info.offset % alignment != 0) {
      Fail(ErrorCode::kFormat, "{}: the tensor {} starts at byte {}, expected a multiple of {}",
           name, Printable(info.name), info.offset, alignment);
    }
    if (info.offset > size || info.n_bytes > size - info.offset) {
      Fail(ErrorCode::kFormat,
           "{}: truncated or damaged: the {} bytes of the tensor {} reach past the end of the file "
           "({} bytes)",
           name, info.n_bytes, Printable(info.name), bytes.size());
    }
  }
}

void GgufFile::Impl::MakeTensors() {
  ggml_init_params params{};
  params.mem_size = (infos.size() + 1) * ggml_tensor_overhead();
  params.no_alloc = true;
  tensors.reset(ggml_init(params));
  if (tensors == nullptr) Fail(ErrorCode::kIo, "{}: out of memory", name);
  by_index.reserve(infos.size());
  for (const TensorInfo& info : infos) {
    ggml_tensor* tensor = ggml_new_tensor(tensors.get(), info.type, info.n_dims, info.shape);
    ggml_set_name(tensor, std::string(info.name).c_str());
    by_index.push_back(tensor);
  }
}

std::string GgufFile::Impl::ToString(std::string_view key, const Value& value) const {
  if (value.is_array || value.type != GGUF_TYPE_STRING) WrongKind(key, value, "a string");
  const auto length = Load<uint64_t>(value.data);
  return {reinterpret_cast<const char*>(value.data) + sizeof(length), static_cast<size_t>(length)};
}

int64_t GgufFile::Impl::IntElement(std::string_view key, const Value& value, uint64_t i,
                                   const char* expected) const {
  const std::byte* data = value.data + i * ElementSize(value.type);
  switch (value.type) {
    case GGUF_TYPE_UINT8:
      return Load<uint8_t>(data);
    case GGUF_TYPE_INT8:
      return Load<int8_t>(data);
    case GGUF_TYPE_UINT16:
      return Load<uint16_t>(data);
    case GGUF_TYPE_INT16:
      return Load<int16_t>(data);
    case GGUF_TYPE_UINT32:
      return Load<uint32_t>(data);
    case GGUF_TYPE_INT32:
      return Load<int32_t>(data);
    case GGUF_TYPE_INT64:
      return Load<int64_t>(data);
    case GGUF_TYPE_UINT64: {
      const auto number = Load<uint64_t>(data);
      if (!std::in_range<int64_t>(number)) {
        Fail(ErrorCode::kFormat, "{}: the metadata key {} is {}, too large", name, Printable(key),
             number);
      }
      return static_cast<int64_t>(number);
    }
    default:
      WrongKind(key, value, expected);
  }
}

int64_t GgufFile::Impl::ToInt(std::string_view key, const Value& value) const {
  if (value.is_array) WrongKind(key, value, "an integer");
  return IntElement(key, value, 0, "an integer");
}

double GgufFile::Impl::ToFloat(std::string_view key, const Value& value) const {
  if (!value.is_array && value.type == GGUF_TYPE_FLOAT32) return Load<float>(value.data);
  if (!value.is_array && value.type == GGUF_TYPE_FLOAT64) return Load<double>(value.data);
  WrongKind(key, value, "a float");
}

GgufFile::GgufFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GgufFile::~GgufFile() = default;
GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;

GgufFile GgufFile::Open(const std::filesystem::path& file) {
  auto impl = std::make_unique<Impl>();
  impl->file = MappedFile(file);
  impl->bytes = impl->file.bytes();
  impl->name = file.string();
  impl->ReadHeader();
  return GgufFile(std::move(impl));
}

GgufFile GgufFile::Parse(std::span<const std::byte> bytes, std::string name) {
  auto impl = std::make_unique<Impl>();
  impl->bytes = bytes;
  impl->name = std::move(name);
  impl->ReadHeader();
  return GgufFile(std::move(impl));
}

bool GgufFile::Has(std::string_view key) const { return impl_->Find(key) != nullptr; }

std::string GgufFile::String(std::string_view key) const {
  return impl_->ToString(key, impl_->Need(key));
}

int64_t GgufFile::Int(std::string_view key) const { return impl_->ToInt(key, impl_->Need(key)); }

double GgufFile::Float(std::string_view key) const { return impl_->ToFloat(key, impl_->Need(key)); }

std::optional<std::string> GgufFile::FindString(std::string_view key) const {
  const Value* value = impl_->Find(key);
  if (value == nullptr) return std::nullopt;
  return impl_->ToString(key, *value);
}

std::optional<int64_t> GgufFile::FindInt(std::string_view key) const {
  const Value* value = impl_->Find(key);
  if (value == nullptr) return std::nullopt;
  return impl_->ToInt(key, *value);
}

std::optional<double> GgufFile::FindFloat(std::string_view key) const {
  const Value* value = impl_->Find(key);
  if (value == nullptr) return std::nullopt;
  return impl_->ToFloat(key, *value);
}

std::optional<bool> GgufFile::FindBool(std::string_view key) const {
  const Value* value = impl_->Find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_array || value->type != GGUF_TYPE_BOOL) {
    impl_->WrongKind(key, *value, "true or false");
  }
  return Load<uint8_t>(value->data) != 0;
}

std::vector<std::string> GgufFile::Strings(std::string_view key) const {
  const Value& value = impl_->Need(key);
  if (!value.is_array || value.type != GGUF_TYPE_STRING) {
    impl_->WrongKind(key, value, "an array of strings");
  }
  std::vector<std::string> strings;
  strings.reserve(value.count);
  const std::byte* data = value.data;
  for (uint64_t i = 0; i < value.count; ++i) {
    const auto length = Load<uint64_t>(data);
    data += sizeof(length);
    strings.emplace_back(reinterpret_cast<const char*>(data), static_cast<size_t>(length));
    data += length;
  }
  return strings;
}

std::vector<int64_t> GgufFile::Ints(std::string_view key) const {
  const Value& value = impl_->Need(key);
  constexpr const char* kExpected = "an array of integers";
  if (!value.is_array) impl_->WrongKind(key, value, kExpected);
  std::vector<int64_t> ints(value.count);
  for (uint64_t i = 0; i < value.count; ++i) ints[i] = impl_->IntElement(key, value, i, kExpected);
  return ints;
}

std::vector<float> GgufFile::Floats(std::string_view key) const {
  const Value& value = impl_->Need(key);
  const bool is_float = value.type == GGUF_TYPE_FLOAT32 || value.type == GGUF_TYPE_FLOAT64;
  if (!value.is_array || !is_float) impl_->WrongKind(key, value, "an array of floats");
  std::vector<float> floats(value.count);
  for (uint64_t i = 0; i < value.count; ++i) {
    floats[i] = value.type == GGUF_TYPE_FLOAT32
                    ? Load<float>(value.data + i * sizeof(float))
                    : static_cast<float>(Load<double>(value.data + i * sizeof(double)));
  }
  return floats;
}

ggml_context* GgufFile::tensors() const { return impl_->tensors.get(); }

const ggml_tensor* GgufFile::FindTensor(std::string_view name) const {
  const auto it = impl_->tensor_index.find(name);
  return it == impl_->tensor_index.end() ? nullptr : impl_->by_index[it->second];
}

std::span<const std::byte> GgufFile::TensorBytes(const ggml_tensor& tensor) const {
  const auto it = impl_->tensor_index.find(tensor.name);
  const size_t n_bytes = ggml_nbytes(&tensor);
  if (it == impl_->tensor_index.end() || impl_->infos[it->second].n_bytes != n_bytes) {
    Fail(ErrorCode::kInvalidArgument, "{}: there is no tensor {} of {} bytes", impl_->name,
         Printable(tensor.name), n_bytes);
  }
  return impl_->bytes.subspan(impl_->data_start + impl_->infos[it->second].offset, n_bytes);
}

const std::string& GgufFile::name() const { return impl_->name; }

void GgufFile::Release(std::span<const std::byte> bytes) const { impl_->file.Release(bytes); }

std::span<const std::byte> GgufFile::bytes() const { return impl_->bytes; }

std::span<const std::byte> GgufFile::header_bytes() const {
  return impl_->bytes.first(std::min<size_t>(impl_->data_start, impl_->bytes.size()));
}

}  // namespace pith
