#include "base/safetensors.h"

#include <ggml.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tools/expect_error.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::AsBytes;
using testing::ExpectError;
using testing::TempFolder;

constexpr auto kFormat = ErrorCode::kFormat;

std::string File(const std::string& header, size_t n_data) {
  const uint64_t size = header.size();
  std::string bytes(sizeof(size), '\0');
  std::memcpy(bytes.data(), &size, sizeof(size));
  bytes += header;
  for (size_t i = 0; i < n_data; ++i) bytes += static_cast<char>(i);
  return bytes;
}

void Refuse(ErrorCode code, const std::string& words, const std::string& header, size_t n_data) {
  const std::string bytes = File(header, n_data);
  ExpectError(code, words, [&] { SafeTensors::Parse(AsBytes(bytes), "x"); });
}

const char* const kTwo = R"({"__metadata__":{"a":"b","":""},)"
                         R"("t":{"dtype":"I32","shape":[2,1],"data_offsets":[0,8]},)"
                         R"("u":{"shape":[],"data_offsets":[8,10],"dtype":"F16"}}  )";

TEST(SafeTensors, ReadsTensorsAndMetadata) {
  const std::string bytes = File(kTwo, 10);
  const SafeTensors file = SafeTensors::Parse(AsBytes(bytes), "two");
  EXPECT_EQ(file.name(), "two");
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"a", "b"}, {"", ""}}));
  EXPECT_EQ(file.tensors().size(), 2u);
  const SafeTensor& t = file.Get("t");
  EXPECT_EQ(t.shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(t.ToInts(), (std::vector<int32_t>{0x03020100, 0x07060504}));
  EXPECT_EQ(file.Get("u").n_elements(), 1);
  EXPECT_EQ(file.Find("v"), nullptr);
  ExpectError(kFormat, "there is no tensor v", [&] { file.Get("v"); });
  ExpectError(kFormat, "expected F16", [&] { file.Get("t").ToFloats(); });
  ExpectError(kFormat, "expected I32", [&] { file.Get("u").ToInts(); });
}

TEST(SafeTensors, EveryCutAndEveryExtraByteIsRefused) {
  const std::string bytes = File(kTwo, 10);
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::vector<char> cut(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
    EXPECT_THROW(SafeTensors::Parse(std::as_bytes(std::span(cut)), "cut"), Error) << size;
  }
  ExpectError(kFormat, "cover 10 of 11 bytes",
              [&] { SafeTensors::Parse(AsBytes(bytes + "x"), "long"); });
}

TEST(SafeTensors, ConvertsFloats) {
  const std::vector<float> values = {0.0f, -1.5f, 65504.0f, 6.1035156e-05f};
  std::vector<ggml_fp16_t> halves(values.size());
  ggml_fp32_to_fp16_row(values.data(), halves.data(), static_cast<int64_t>(values.size()));
  std::vector<ggml_bf16_t> brains(values.size());
  ggml_fp32_to_bf16_row(values.data(), brains.data(), static_cast<int64_t>(values.size()));
  const std::vector<double> doubles(values.begin(), values.end());
  const auto n = static_cast<int64_t>(values.size());
  const auto convert = [n](const char* dtype, std::span<const std::byte> bytes) {
    return SafeTensor{dtype, {n}, bytes}.ToFloats();
  };
  EXPECT_EQ(convert("F32", std::as_bytes(std::span(values))), values);
  EXPECT_EQ(convert("F64", std::as_bytes(std::span(doubles))), values);
  EXPECT_EQ(convert("F16", std::as_bytes(std::span(halves))), values);
  const std::vector<float> rounded = convert("BF16", std::as_bytes(std::span(brains)));
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_LE(std::abs(rounded[i] - values[i]), std::abs(values[i]) / 256);
  }
}

TEST(SafeTensors, ConvertsIntsThatFit) {
  const std::vector<int64_t> good = {1, -2, 2147483647};
  EXPECT_EQ((SafeTensor{"I64", {3}, std::as_bytes(std::span(good))}.ToInts()),
            (std::vector<int32_t>{1, -2, 2147483647}));
  const std::vector<int64_t> bad = {2147483648};
  ExpectError(kFormat, "2147483648", [&] {
    SafeTensor{"I64", {1}, std::as_bytes(std::span(bad))}.ToInts();
  });
}

TEST(SafeTensors, WhatIsNoSafetensors) {
  const auto parse = [](const std::string& bytes) { SafeTensors::Parse(AsBytes(bytes), "x"); };
  ExpectError(kFormat, "x: is empty", [&] { parse(""); });
  ExpectError(kFormat, "too few", [&] { parse("abcdefg"); });
  ExpectError(kFormat, "truncated, or not a safetensors", [&] { parse("GGUF0123456789abcdef"); });
  ExpectError(kFormat, "truncated, or not a safetensors",
              [&] { parse(std::string(8, '\xff') + "{}"); });
  ExpectError(kFormat, "not JSON", [&] { parse(std::string(64, '\0')); });
  Refuse(kFormat, "not JSON", "{", 0);
  Refuse(kFormat, "not JSON", "{}x", 0);
  Refuse(kFormat, "not JSON", "{\"a\xff\":1}", 0);
  Refuse(kFormat, "expected an object", "[]", 0);
  Refuse(kFormat, "expected an object", "12", 0);
  Refuse(kFormat, "expected an object", "\"x\"", 0);
  Refuse(kFormat, "expected an object", "null", 0);
  const std::string empty = File("{}", 0);
  EXPECT_TRUE(SafeTensors::Parse(AsBytes(empty), "empty").tensors().empty());
}

TEST(SafeTensors, HostileHeaders) {
  Refuse(kFormat, "there is a number at t", R"({"t":1})", 0);
  Refuse(kFormat, "there is an array at t", R"({"t":[]})", 0);
  Refuse(kFormat, "there is a number at a", R"({"__metadata__":{"a":1}})", 0);
  Refuse(kFormat, "there is an object at a", R"({"__metadata__":{"a":{}}})", 0);
  Refuse(kFormat, "an array at __metadata__", R"({"__metadata__":[]})", 0);
  Refuse(kFormat, "unknown field x", R"({"t":{"x":1}})", 0);
  Refuse(kFormat, "t appears twice", R"({"t":{},"t":{}})", 0);
  Refuse(kFormat, "__metadata__ appears twice", R"({"__metadata__":{},"__metadata__":{}})", 0);
  Refuse(kFormat, "a appears twice", R"({"__metadata__":{"a":"1","a":"2"}})", 0);
  Refuse(kFormat, "shape appears twice", R"({"t":{"shape":[],"shape":[]}})", 0);
  Refuse(kFormat, "dtype appears twice", R"({"t":{"dtype":"F32","dtype":"F32"}})", 0);
  Refuse(kFormat, "an array at shape", R"({"t":{"shape":[[1]]}})", 0);
  Refuse(kFormat, "a string at shape", R"({"t":{"shape":["1"]}})", 0);
  Refuse(kFormat, "a string at shape", R"({"t":{"shape":"1"}})", 0);
  Refuse(kFormat, "a number at dtype", R"({"t":{"dtype":1}})", 0);
  Refuse(kFormat, "an array at dtype", R"({"t":{"dtype":[1]}})", 0);
  Refuse(kFormat, "negative number", R"({"t":{"shape":[-1]}})", 0);
  Refuse(kFormat, "fraction", R"({"t":{"shape":[1.5]}})", 0);
  Refuse(kFormat, "too large", R"({"t":{"shape":[9223372036854775808]}})", 0);
  Refuse(kFormat, "fraction", R"({"t":{"shape":[99999999999999999999999]}})", 0);
  Refuse(kFormat, "lacks dtype", R"({"t":{}})", 0);
  Refuse(kFormat, "lacks dtype", R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4);
  Refuse(kFormat, "lacks dtype", R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}})", 4);
  Refuse(ErrorCode::kUnsupported, "unknown dtype F31",
         R"({"t":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", 4);
}

TEST(SafeTensors, NestingDoesNotReachTheStack) {
  for (const char* open : {"[", "{\"a\":"}) {
    std::string header;
    for (int i = 0; i < 1000000; ++i) header += open;
    const std::string bytes = File(header, 0);
    EXPECT_THROW(SafeTensors::Parse(AsBytes(bytes), "deep"), Error);
    const std::string inside = File(R"({"t":{"shape":)" + header, 0);
    EXPECT_THROW(SafeTensors::Parse(AsBytes(inside), "deep"), Error);
  }
}

TEST(SafeTensors, HostileShapesAndOffsets) {
  const auto one = [](const std::string& shape, const std::string& offsets) {
    return R"({"t":{"dtype":"F32","shape":[)" + shape + R"(],"data_offsets":[)" + offsets + "]}}";
  };
  Refuse(kFormat, "lies at bytes 0 to 9 of 8", one("2", "0,9"), 8);
  Refuse(kFormat, "lies at bytes 8 to 0", one("2", "8,0"), 8);
  Refuse(kFormat, "lies at bytes", one("2", "0,9223372036854775807"), 8);
  Refuse(kFormat, "not what its shape needs", one("1", "0,8"), 8);
  Refuse(kFormat, "not what its shape needs", one("3", "0,8"), 8);
  Refuse(kFormat, "not what its shape needs", one("4611686018427387904,4,2", "0,8"), 8);
  Refuse(kFormat, "not what its shape needs", one("9223372036854775807,3", "0,8"), 8);
  Refuse(kFormat, "not what its shape needs", one("2147483648,2147483648,2", "0,0"), 0);
  Refuse(kFormat, "leave a gap at byte 4", one("1", "4,8"), 8);
  Refuse(kFormat, "cover 4 of 8", one("1", "0,4"), 8);
  const std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  const std::string b = R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]})";
  const std::string c = R"("c":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  Refuse(kFormat, "overlap", "{" + a + "," + b + "}", 6);
  Refuse(kFormat, "overlap", "{" + a + "," + c + "}", 4);
  const std::string none = File(one("0", "0,0"), 0);
  EXPECT_TRUE(SafeTensors::Parse(AsBytes(none), "none").Get("t").ToFloats().empty());
}

TEST(SafeTensors, WritesWhatItReads) {
  const TempFolder folder;
  const std::string bytes = "0123456789abcdefghijkl";
  const auto data = AsBytes(bytes);
  const std::map<std::string, SafeTensor, std::less<>> tensors = {
      {"bytes", {"U8", {3}, data.first(3)}},
      {"floats", {"F32", {1, 2}, data.subspan(3, 8)}},
      {"long", {"I64", {1}, data.subspan(11, 8)}},
      {"none", {"F16", {0, 7}, {}}},
      {"quoted \"\n", {"U8", {}, data.first(1)}}};
  const std::map<std::string, std::string> metadata = {{"k", "v\n\"\\"}, {"ä", "日本"}};
  WriteSafeTensors(folder / "x.safetensors", tensors, metadata);
  const SafeTensors file = SafeTensors::Open(folder / "x.safetensors");
  EXPECT_EQ(file.metadata(), metadata);
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const SafeTensor& read = file.Get(name);
    EXPECT_EQ(read.dtype, tensor.dtype);
    EXPECT_EQ(read.shape, tensor.shape);
    ASSERT_EQ(read.bytes.size(), tensor.bytes.size());
    EXPECT_TRUE(std::equal(read.bytes.begin(), read.bytes.end(), tensor.bytes.begin()));
  }
  for (const char* name : {"floats", "long"}) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(file.Get(name).bytes.data()) % 4, 0u) << name;
  }
}

TEST(SafeTensors, WriterRefusesWhatItCouldNotRead) {
  const TempFolder folder;
  const std::string bytes = "0123";
  const auto write = [&](const std::string& name, const SafeTensor& tensor) {
    WriteSafeTensors(folder / "x", {{name, tensor}}, {});
  };
  constexpr auto kInvalid = ErrorCode::kInvalidArgument;
  ExpectError(kInvalid, "not what its shape needs", [&] {
    write("t", {"F32", {2}, AsBytes(bytes)});
  });
  ExpectError(kInvalid, "not what its shape needs", [&] {
    write("t", {"X", {1}, AsBytes(bytes)});
  });
  ExpectError(kInvalid, "__metadata__", [&] {
    write("__metadata__", {"F32", {1}, AsBytes(bytes)});
  });
  EXPECT_FALSE(std::filesystem::exists(folder / "x"));
  const std::map<std::string, std::string> no_utf8 = {{"k", "\xff"}};
  WriteSafeTensors(folder / "y", {}, no_utf8);
  EXPECT_EQ(SafeTensors::Open(folder / "y").metadata().at("k"), "\uFFFD");
}

TEST(SafeTensors, ReadsTheGoldenFiles) {
  const SafeTensors file = SafeTensors::Open(PITH_TEST_DATA "/scorers_layer3.safetensors");
  EXPECT_EQ(file.Get("k").shape, (std::vector<int64_t>{3, 128, 64}));
  EXPECT_EQ(file.Get("k").ToFloats().size(), 3u * 128 * 64);
  EXPECT_EQ(file.Get("ids").ToInts().size(), 128u);
  EXPECT_FALSE(file.metadata().empty());
}

}  // namespace
}  // namespace pith
