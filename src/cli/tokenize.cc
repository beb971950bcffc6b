// pith tokenize: the tokens of a text.
#include <fmt/format.h>

#include <cctype>
#include <nlohmann/json.hpp>

#include "cli/document.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/verbs.h"

namespace pith::cli {
namespace {

// A piece on one line: a token may hold line breaks or half a character.
std::string Escaped(std::string_view piece) {
  const bool whole = FindInvalidUtf8(piece) == std::string_view::npos;
  std::string out;
  for (char c : piece) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\\') {
      out += "\\\\";
    } else if (byte < 0x20 || byte == 0x7f || (byte >= 0x80 && !whole)) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

int Tokenize(const Verb& verb, std::span<char* const> arguments) {
  ModelFlags model_flags;
  std::string text;
  std::string file;
  bool special = false;
  bool json = false;
  CommandLine line(verb.name, verb.summary);
  model_flags.AddFileTo(line);
  line.Option("-p,--prompt", text, "TEXT", "the text (default: standard input)");
  line.Option("-f,--file", file, "FILE", "a file that holds the text");
  line.Flag("--special", special, "read <|im_end|> and the like as one token");
  line.Flag("--json", json, "print {\"ids\": [...]}");
  if (!line.Parse(arguments)) return kDone;
  if (line.Given("--prompt") && line.Given("--file")) {
    throw UsageError("give --prompt or --file, not both");
  }
  if (line.Given("--file")) {
    if (file.empty()) throw UsageError("--file has no name");
    text = ReadBytes(file);
  } else if (!line.Given("--prompt")) {
    text = ReadBytes({});
  }

  ModelOptions options;
  options.repack = false;
  const Model model = Model::Load(model_flags.File(), options);
  const Tokenizer& tokenizer = model.tokenizer();
  const std::vector<Token> ids = tokenizer.Encode(text, special);
  if (json) {
    Print(nlohmann::ordered_json{{"ids", ids}}.dump() + "\n");
    return kDone;
  }
  std::string lines;
  for (Token id : ids) {
    lines += fmt::format("{:>6}  {}\n", id, Escaped(tokenizer.Piece(id, /*special=*/true)));
  }
  Print(lines);
  return kDone;
}

}  // namespace pith::cli
