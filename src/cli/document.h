// Text from files and standard input. What is not text is refused with one sentence.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace pith::cli {

// The file's text, without a byte order mark. Throws Error: kNotFound, kIo (also for a directory),
// kFormat when it is empty, binary or not UTF-8, with the byte offset.
std::string ReadDocument(const std::filesystem::path& file);

// The same for standard input.
std::string ReadStandardInput();

// Every byte of a file, or of standard input if `file` is empty, unchecked.
std::string ReadBytes(const std::filesystem::path& file);

// Throws UsageError unless words given on the command line are there and UTF-8; `what` they are, as
// in "question".
void CheckWords(std::string_view words, std::string_view what);

// Where `text` first breaks the rules of UTF-8 (RFC 3629); npos if nowhere.
size_t FindInvalidUtf8(std::string_view text);

}  // namespace pith::cli
