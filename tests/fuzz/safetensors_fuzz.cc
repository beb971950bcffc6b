// The safetensors reader, on anything.
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "base/safetensors.h"
#include "fuzz/seeds.h"
#include "pith/error.h"

namespace {

std::string File(const std::string& header, size_t n_data) {
  const uint64_t size = header.size();
  std::string bytes(sizeof(size), '\0');
  std::memcpy(bytes.data(), &size, sizeof(size));
  return bytes + header + std::string(n_data, 'x');
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  const std::string t = R"("t":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]})";
  const std::string u = R"("u":{"dtype":"I64","shape":[1],"data_offsets":[8,16]})";
  const std::string v = R"("v":{"dtype":"F16","shape":[],"data_offsets":[16,18]})";
  const std::string w = R"("w":{"dtype":"BF16","shape":[0,9],"data_offsets":[18,18]})";
  const std::string m = R"("__metadata__":{"format":"pt","a":"\u00e4\n"})";
  pith::testing::WriteSeeds(
      *argc, *argv,
      {File("{" + m + "}", 0), File("{" + t + "}", 8), File("{" + t + "," + u + "}  ", 16),
       File("{" + m + "," + t + "," + u + "," + v + "," + w + "}", 18)});
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto bytes = std::as_bytes(std::span(data, size));
    const pith::SafeTensors file = pith::SafeTensors::Parse(bytes, "fuzz");
    for (const auto& [name, tensor] : file.tensors()) {
      try {
        tensor.ToFloats();
      } catch (const pith::Error&) {
      }
      try {
        tensor.ToInts();
      } catch (const pith::Error&) {
      }
    }
  } catch (const pith::Error&) {
  }
  return 0;
}
