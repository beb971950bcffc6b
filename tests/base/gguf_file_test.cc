#include "base/gguf_file.h"

#include <ggml.h>
#include <gguf.h>
#include <gtest/gtest.h>

#include <limits>
#include <utility>

#include "tools/expect_error.h"
#include "tools/gguf_bytes.h"
#include "tools/temp_folder.h"

namespace pith {
namespace {

using testing::AsBytes;
using testing::ExpectError;
using testing::GgufBytes;
using testing::TempFolder;

constexpr auto kFormat = ErrorCode::kFormat;

// Every kind of value and two tensors of 32 bytes of data each.
GgufBytes SmallFile() {
  GgufBytes file;
  file.Header(2, 15);
  file.Text("text", "hällo");
  file.Value<uint8_t>("u8", GGUF_TYPE_UINT8, 200);
  file.Value<int8_t>("i8", GGUF_TYPE_INT8, -100);
  file.Value<uint16_t>("u16", GGUF_TYPE_UINT16, 60000);
  file.Value<int16_t>("i16", GGUF_TYPE_INT16, -30000);
  file.Value<uint32_t>("u32", GGUF_TYPE_UINT32, 4000000000u);
  file.Value<int32_t>("i32", GGUF_TYPE_INT32, -2000000000);
  file.Value<uint64_t>("u64", GGUF_TYPE_UINT64, uint64_t{1} << 63);
  file.Value<int64_t>("i64", GGUF_TYPE_INT64, std::numeric_limits<int64_t>::min());
  file.Value<float>("f32", GGUF_TYPE_FLOAT32, 1.5f);
  file.Value<double>("f64", GGUF_TYPE_FLOAT64, -0.1);
  file.Value<uint8_t>("flag", GGUF_TYPE_BOOL, 1);
  file.ArrayHeader("strings", GGUF_TYPE_STRING, 3).String("a").String("").String("ccc");
  file.ArrayHeader("ints", GGUF_TYPE_INT16, 2).Put<int16_t>(-1).Put<int16_t>(7);
  file.ArrayHeader("floats", GGUF_TYPE_FLOAT64, 1).Put<double>(0.5);
  file.Tensor("a", {4, 2}, GGML_TYPE_F32, 0);
  file.Tensor("b.weight", {8}, GGML_TYPE_F32, 32);
  file.Pad(32);
  for (int i = 0; i < 16; ++i) file.Put(static_cast<float>(i));
  return file;
}

TEST(GgufFile, ReadsEveryKindOfValue) {
  const std::string bytes = SmallFile().bytes();
  const GgufFile file = GgufFile::Parse(AsBytes(bytes), "small");
  EXPECT_EQ(file.name(), "small");
  EXPECT_TRUE(file.Has("u8"));
  EXPECT_FALSE(file.Has("u"));
  EXPECT_EQ(file.String("text"), "hällo");
  EXPECT_EQ(file.Int("u8"), 200);
  EXPECT_EQ(file.Int("i8"), -100);
  EXPECT_EQ(file.Int("u16"), 60000);
  EXPECT_EQ(file.Int("i16"), -30000);
  EXPECT_EQ(file.Int("u32"), 4000000000);
  EXPECT_EQ(file.Int("i32"), -2000000000);
  EXPECT_EQ(file.Int("i64"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(file.Float("f32"), 1.5);
  EXPECT_EQ(file.Float("f64"), -0.1);
  EXPECT_EQ(file.FindBool("flag"), true);
  EXPECT_EQ(file.Strings("strings"), (std::vector<std::string>{"a", "", "ccc"}));
  EXPECT_EQ(file.Ints("ints"), (std::vector<int64_t>{-1, 7}));
  EXPECT_EQ(file.Floats("floats"), std::vector<float>{0.5f});
}

TEST(GgufFile, MissingKeysAreNothingOrAnError) {
  const std::string bytes = SmallFile().bytes();
  const GgufFile file = GgufFile::Parse(AsBytes(bytes), "small");
  EXPECT_EQ(file.FindString("none"), std::nullopt);
  EXPECT_EQ(file.FindInt("none"), std::nullopt);
  EXPECT_EQ(file.FindFloat("none"), std::nullopt);
  EXPECT_EQ(file.FindBool("none"), std::nullopt);
  ExpectError(kFormat, "key none is missing", [&] { file.String("none"); });
  ExpectError(kFormat, "key none is missing", [&] { file.Int("none"); });
  ExpectError(kFormat, "key none is missing", [&] { file.Float("none"); });
  ExpectError(kFormat, "key none is missing", [&] { file.Strings("none"); });
  ExpectError(kFormat, "key none is missing", [&] { file.Ints("none"); });
  ExpectError(kFormat, "key none is missing", [&] { file.Floats("none"); });
}

TEST(GgufFile, WrongKindsAreAnError) {
  const std::string bytes = SmallFile().bytes();
  const GgufFile file = GgufFile::Parse(AsBytes(bytes), "small");
  ExpectError(kFormat, "u8 is u8, expected a string", [&] { file.String("u8"); });
  ExpectError(kFormat, "text is str, expected an integer", [&] { file.Int("text"); });
  ExpectError(kFormat, "u64 is 9223372036854775808, too large", [&] { file.Int("u64"); });
  ExpectError(kFormat, "flag is bool, expected an integer", [&] { file.Int("flag"); });
  ExpectError(kFormat, "ints is array of 2 i16, expected an integer", [&] { file.Int("ints"); });
  ExpectError(kFormat, "expected a float", [&] { file.Float("u8"); });
  ExpectError(kFormat, "expected a float", [&] { file.FindFloat("floats"); });
  ExpectError(kFormat, "expected true or false", [&] { file.FindBool("u8"); });
  ExpectError(kFormat, "expected an array of strings", [&] { file.Strings("text"); });
  ExpectError(kFormat, "expected an array of strings", [&] { file.Strings("ints"); });
  ExpectError(kFormat, "expected an array of integers", [&] { file.Ints("strings"); });
  ExpectError(kFormat, "expected an array of integers", [&] { file.Ints("u8"); });
  ExpectError(kFormat, "expected an array of floats", [&] { file.Floats("ints"); });
  ExpectError(kFormat, "expected a string", [&] { file.FindString("strings"); });
}

TEST(GgufFile, GivesTensorsAndTheirBytes) {
  const std::string bytes = SmallFile().bytes();
  const GgufFile file = GgufFile::Parse(AsBytes(bytes), "small");
  EXPECT_EQ(file.FindTensor("c"), nullptr);
  const ggml_tensor* a = file.FindTensor("a");
  const ggml_tensor* b = file.FindTensor("b.weight");
  ASSERT_NE(a, nullptr);
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(a->ne[0], 4);
  EXPECT_EQ(a->ne[1], 2);
  EXPECT_EQ(a->ne[2], 1);
  EXPECT_EQ(a->data, nullptr);
  EXPECT_EQ(ggml_get_first_tensor(file.tensors()), a);
  EXPECT_EQ(file.TensorBytes(*a).size(), 32u);
  EXPECT_EQ(file.TensorBytes(*b).data(), AsBytes(bytes).data() + bytes.size() - 32);
  EXPECT_EQ(file.header_bytes().size(), bytes.size() - 64);
  EXPECT_EQ(file.bytes().size(), bytes.size());

  ggml_tensor foreign = *a;
  ggml_set_name(&foreign, "elsewhere");
  ExpectError(ErrorCode::kInvalidArgument, "there is no tensor elsewhere",
              [&] { file.TensorBytes(foreign); });
}

TEST(GgufFile, EveryCutIsRefused) {
  const std::string bytes = SmallFile().bytes();
  for (size_t size = 0; size < bytes.size(); ++size) {
    // A copy of the exact size lets the address sanitizer see a read past the end.
    const std::vector<char> cut(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
    EXPECT_THROW(GgufFile::Parse(std::as_bytes(std::span(cut)), "cut"), Error) << size;
  }
  ExpectError(kFormat, "truncated or damaged: the 32 bytes of the tensor b.weight",
              [&] { GgufFile::Parse(AsBytes(bytes).first(bytes.size() - 1), "cut"); });
}

TEST(GgufFile, EveryChangedByteIsRefusedOrRead) {
  const std::string bytes = SmallFile().bytes();
  int refused = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (const char value : {'\0', '\1', '\x7f', '\x80', '\xff'}) {
      std::string changed = bytes;
      changed[i] = value;
      try {
        const GgufFile file = GgufFile::Parse(AsBytes(changed), "changed");
        for (ggml_tensor* t = ggml_get_first_tensor(file.tensors()); t != nullptr;
             t = ggml_get_next_tensor(file.tensors(), t)) {
          EXPECT_LE(file.TensorBytes(*t).size(), changed.size());
        }
      } catch (const Error&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 500);
}

TEST(GgufFile, WhatIsNoGguf) {
  const auto parse = [](const std::string& bytes) { GgufFile::Parse(AsBytes(bytes), "x"); };
  ExpectError(kFormat, "x: is empty", [&] { parse(""); });
  ExpectError(kFormat, "it starts with \"GG\"", [&] { parse("GG"); });
  ExpectError(kFormat, "it starts with \"?ELF\", expected \"GGUF\"",
              [&] { parse("\177ELF and more"); });
  ExpectError(ErrorCode::kUnsupported, "version 1",
              [&] { parse(GgufBytes().Header(0, 0, 1).bytes()); });
  ExpectError(ErrorCode::kUnsupported, "version 4",
              [&] { parse(GgufBytes().Header(0, 0, 4).bytes()); });
  ExpectError(ErrorCode::kUnsupported, "version 0",
              [&] { parse(GgufBytes().Header(0, 0, 0).bytes()); });
  ExpectError(ErrorCode::kUnsupported, "big-endian",
              [&] { parse(GgufBytes().Header(0, 0, 0x03000000).bytes()); });
  EXPECT_NO_THROW(parse(GgufBytes().Header(0, 0).bytes()));
  EXPECT_NO_THROW(parse(GgufBytes().Header(0, 0, 2).bytes()));
}

TEST(GgufFile, HostileCountsAndLengths) {
  const auto refuse = [](const std::string& words, const GgufBytes& file) {
    ExpectError(kFormat, words, [&] { GgufFile::Parse(AsBytes(file.bytes()), "x"); });
  };
  const std::string zeros(4096, '\0');
  for (const uint64_t n :
       {uint64_t{5000}, uint64_t{1} << 32, uint64_t{1} << 60, uint64_t{1} << 63, ~uint64_t{0}}) {
    refuse("tensors cannot fit", GgufBytes().Header(n, 0).Raw(zeros));
    refuse("metadata keys cannot fit", GgufBytes().Header(0, n).Raw(zeros));
    refuse("a metadata key at byte", GgufBytes().Header(0, 1).Put(n).Raw(zeros));
    refuse("a string at byte",
           GgufBytes().Header(0, 1).Key("k", GGUF_TYPE_STRING).Put(n).Raw(zeros));
    refuse("array elements cannot fit",
           GgufBytes().Header(0, 1).ArrayHeader("k", GGUF_TYPE_FLOAT64, n).Raw(zeros));
    refuse("strings cannot fit",
           GgufBytes().Header(0, 1).ArrayHeader("k", GGUF_TYPE_STRING, n).Raw(zeros));
  }
  refuse("unknown type 13", GgufBytes().Header(0, 1).Key("k", GGUF_TYPE_COUNT).Raw(zeros));
  refuse("unknown type 4294967295", GgufBytes().Header(0, 1).Key("k", ~0u).Raw(zeros));
  refuse("unknown type 9",
         GgufBytes().Header(0, 1).ArrayHeader("k", GGUF_TYPE_ARRAY, 1).Raw(zeros));
  refuse("key k appears twice", GgufBytes()
                                    .Header(0, 2)
                                    .Value<uint8_t>("k", GGUF_TYPE_UINT8, 0)
                                    .Value<uint8_t>("k", GGUF_TYPE_UINT8, 0)
                                    .Raw(zeros));
  refuse("key a?b?? appears",
         GgufBytes().Header(0, 2).Text("a\nb\x1b\xff", "").Text("a\nb\x1b\xff", ""));
}

TEST(GgufFile, HostileTensors) {
  const auto refuse = [](ErrorCode code, const std::string& words, const GgufBytes& file) {
    const std::string bytes = GgufBytes(file).Pad(32).Raw(std::string(4096, '\0')).bytes();
    ExpectError(code, words, [&] { GgufFile::Parse(AsBytes(bytes), "x"); });
  };
  const auto one = [] { return GgufBytes().Header(1, 0); };
  refuse(kFormat, "is not one of 1 to 63 characters", one().Tensor("", {4}, GGML_TYPE_F32, 0));
  refuse(kFormat, "is not one of 1 to 63 characters",
         one().Tensor(std::string(64, 'x'), {4}, GGML_TYPE_F32, 0));
  refuse(kFormat, "is not one of 1 to 63 characters",
         one().Tensor(std::string_view("a\0b", 3), {4}, GGML_TYPE_F32, 0));
  refuse(kFormat, "has 0 dimensions", one().Tensor("t", {}, GGML_TYPE_F32, 0));
  refuse(kFormat, "has 5 dimensions", one().Tensor("t", {1, 1, 1, 1, 1}, GGML_TYPE_F32, 0));
  refuse(kFormat, "is 0, too small", one().Tensor("t", {4, 0}, GGML_TYPE_F32, 0));
  refuse(kFormat, "is -4, too small", one().Tensor("t", {-4}, GGML_TYPE_F32, 0));
  refuse(kFormat, "too large",
         one().Tensor("t", {std::numeric_limits<int64_t>::max()}, GGML_TYPE_F32, 0));
  refuse(kFormat, "too large",
         one().Tensor("t", {1 << 30, 1 << 30, 1 << 30, 1 << 30}, GGML_TYPE_F32, 0));
  refuse(kFormat, "past the end", one().Tensor("t", {int64_t{1} << 48}, GGML_TYPE_F64, 0));
  refuse(kFormat, "past the end", one().Tensor("t", {1025}, GGML_TYPE_F32, 0));
  refuse(kFormat, "past the end", one().Tensor("t", {1}, GGML_TYPE_F32, 4096));
  refuse(kFormat, "past the end", one().Tensor("t", {1}, GGML_TYPE_F32, ~uint64_t{31}));
  refuse(kFormat, "expected a multiple of 32", one().Tensor("t", {4}, GGML_TYPE_F32, 8));
  refuse(kFormat, "expected a multiple of the 32 of q4_0",
         one().Tensor("t", {48}, GGML_TYPE_Q4_0, 0));
  refuse(ErrorCode::kUnsupported, "the type 4,", one().Tensor("t", {32}, 4, 0));
  refuse(ErrorCode::kUnsupported, "the type 4294967295,", one().Tensor("t", {32}, ~0u, 0));
  refuse(kFormat, "tensor t appears twice",
         GgufBytes().Header(2, 0).Tensor("t", {1}, 0, 0).Tensor("t", {1}, 0, 0));
}

TEST(GgufFile, Alignment) {
  const auto with = [](uint32_t type, auto alignment) {
    return GgufBytes()
        .Header(1, 1)
        .Value("general.alignment", type, alignment)
        .Tensor("t", {4}, GGML_TYPE_F32, 64);
  };
  for (const uint32_t bad : {0u, 1u, 4u, 24u, 1u << 17, 1u << 31}) {
    const std::string bytes = with(GGUF_TYPE_UINT32, bad).Pad(32).Raw(std::string(256, 0)).bytes();
    ExpectError(kFormat, "expected a power of two from 8",
                [&] { GgufFile::Parse(AsBytes(bytes), "x"); });
  }
  const std::string text =
      GgufBytes().Header(0, 1).Text("general.alignment", "32").Raw(std::string(64, 0)).bytes();
  ExpectError(kFormat, "expected an integer", [&] { GgufFile::Parse(AsBytes(text), "x"); });

  const std::string good =
      with(GGUF_TYPE_UINT32, 64u).Pad(64).Raw(std::string(64 + 16, 'x')).bytes();
  const GgufFile file = GgufFile::Parse(AsBytes(good), "good");
  EXPECT_EQ(file.header_bytes().size(), good.size() - 80);
  EXPECT_EQ(file.TensorBytes(*file.FindTensor("t")).data(),
            AsBytes(good).data() + good.size() - 16);
}

TEST(GgufFile, OpensFiles) {
  const TempFolder folder;
  ExpectError(ErrorCode::kNotFound, "there is no such file",
              [&] { GgufFile::Open(folder / "none.gguf"); });
  ExpectError(ErrorCode::kIo, "is a folder", [&] { GgufFile::Open(folder.path()); });
  testing::WriteWhole(folder / "empty.gguf", "");
  ExpectError(kFormat, "is empty", [&] { GgufFile::Open(folder / "empty.gguf"); });
  testing::WriteWhole(folder / "small.gguf", SmallFile().bytes());
  GgufFile moved = GgufFile::Open(folder / "small.gguf");
  const GgufFile file = std::move(moved);
  EXPECT_EQ(file.Int("u8"), 200);
  EXPECT_EQ(file.TensorBytes(*file.FindTensor("a")).size(), 32u);
}

TEST(GgufFile, AgreesWithGgmlOnTheDefaultModel) {
  const GgufFile file = GgufFile::Open(PITH_TEST_MODEL);
  gguf_context* gguf = gguf_init_from_file(PITH_TEST_MODEL, {.no_alloc = true, .ctx = nullptr});
  ASSERT_NE(gguf, nullptr);
  EXPECT_EQ(file.header_bytes().size(), gguf_get_data_offset(gguf));
  EXPECT_GT(gguf_get_n_tensors(gguf), 200);
  for (int64_t i = 0; i < gguf_get_n_tensors(gguf); ++i) {
    const ggml_tensor* tensor = file.FindTensor(gguf_get_tensor_name(gguf, i));
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->type, gguf_get_tensor_type(gguf, i));
    const auto bytes = file.TensorBytes(*tensor);
    EXPECT_EQ(bytes.size(), gguf_get_tensor_size(gguf, i));
    EXPECT_EQ(static_cast<size_t>(bytes.data() - file.bytes().data()),
              gguf_get_data_offset(gguf) + gguf_get_tensor_offset(gguf, i));
  }
  const int64_t tokens = gguf_find_key(gguf, "tokenizer.ggml.tokens");
  const std::vector<std::string> strings = file.Strings("tokenizer.ggml.tokens");
  ASSERT_EQ(strings.size(), gguf_get_arr_n(gguf, tokens));
  for (size_t i = 0; i < strings.size(); ++i) {
    ASSERT_EQ(strings[i], gguf_get_arr_str(gguf, tokens, i)) << i;
  }
  gguf_free(gguf);
}

}  // namespace
}  // namespace pith
