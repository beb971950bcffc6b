#include "cli/document.h"

#include <errno.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>

#include "base/fail.h"
#include "cli/command_line.h"

namespace pith::cli {
namespace {

struct Magic {
  std::string_view bytes;
  const char* kind;
};

// Formats whose first bytes could pass as text.
constexpr Magic kMagics[] = {{"%PDF-", "a PDF file"},
                             {"{\\rtf", "an RTF file"},
                             {"GGUF", "a GGUF model"},
                             {"PK\x03\x04", "a ZIP archive or an office document"}};

std::string ReadStream(std::FILE* stream, const std::string& name) {
  std::string bytes;
  char buffer[1 << 16];
  size_t count = 0;
  while ((count = std::fread(buffer, 1, sizeof(buffer), stream)) > 0) bytes.append(buffer, count);
  if (std::ferror(stream)) Fail(ErrorCode::kIo, "cannot read {}: {}", name, std::strerror(errno));
  return bytes;
}

bool IsBinaryMark(unsigned char c) {
  constexpr std::string_view kTextControls = "\a\b\t\n\v\f\r\x1a\x1b";
  return c < 0x20 ? kTextControls.find(static_cast<char>(c)) == std::string_view::npos : c == 0x7f;
}

std::string CheckedText(std::string bytes, const std::string& name) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  for (const Magic& magic : kMagics) {
    if (bytes.starts_with(magic.bytes)) {
      Fail(ErrorCode::kFormat, "{} is {}, expected plain text", name, magic.kind);
    }
  }
  if (bytes.find_first_not_of(" \t\n\v\f\r") == std::string::npos) {
    Fail(ErrorCode::kFormat, "{} is empty, expected text", name);
  }
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (IsBinaryMark(static_cast<unsigned char>(bytes[i]))) {
      Fail(ErrorCode::kFormat, "{} is binary (byte {:#04x} at offset {}), expected text", name,
           static_cast<unsigned char>(bytes[i]), i);
    }
  }
  if (const size_t at = FindInvalidUtf8(bytes); at != std::string::npos) {
    Fail(ErrorCode::kFormat, "{} is not UTF-8 (byte {:#04x} at offset {})", name,
         static_cast<unsigned char>(bytes[at]), at);
  }
  if (bytes.starts_with(kByteOrderMark)) bytes.erase(0, kByteOrderMark.size());
  return bytes;
}

}  // namespace

size_t FindInvalidUtf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const auto byte = [&](size_t i) -> unsigned {
      return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0;
    };
    const unsigned lead = byte(0);
    if (lead < 0x80) {
      ++at;
      continue;
    }
    const size_t length = lead >= 0xc2 && lead <= 0xdf   ? 2
                          : lead >= 0xe0 && lead <= 0xef ? 3
                          : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                         : 0;
    if (length == 0) return at;
    // The second byte also rules out overlong forms, surrogates and what is above U+10FFFF.
    const unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (byte(1) < low || byte(1) > high) return at;
    for (size_t i = 2; i < length; ++i) {
      if (byte(i) < 0x80 || byte(i) > 0xbf) return at;
    }
    at += length;
  }
  return std::string_view::npos;
}

std::string ReadBytes(const std::filesystem::path& file) {
  if (file.empty()) return ReadStream(stdin, "standard input");
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored)) {
    Fail(ErrorCode::kIo, "{} is a directory, expected a text file", file.string());
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream(std::fopen(file.c_str(), "rb"),
                                                               std::fclose);
  if (!stream) {
    Fail(errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo, "cannot open {}: {}",
         file.string(), std::strerror(errno));
  }
  return ReadStream(stream.get(), file.string());
}

std::string ReadDocument(const std::filesystem::path& file) {
  return CheckedText(ReadBytes(file), file.string());
}

void CheckWords(std::string_view words, std::string_view what) {
  if (words.find_first_not_of(" \t\r\n") == std::string_view::npos) {
    throw UsageError(fmt::format("the {} is empty", what));
  }
  if (FindInvalidUtf8(words) != std::string_view::npos) {
    throw UsageError(fmt::format("the {} is not UTF-8", what));
  }
}

std::string ReadStandardInput() { return CheckedText(ReadBytes({}), "standard input"); }

}  // namespace pith::cli
