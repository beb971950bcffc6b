#include "cli/eval_texts.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>

#include "cli/document.h"

namespace pith::cli {

namespace fs = std::filesystem;

std::vector<std::string> ReadTexts(std::vector<std::string> names, const std::string& flag) {
  std::error_code ignored;
  if (names.empty()) {
    if (!fs::is_directory(kCheckoutEssays, ignored)) {
      throw UsageError(fmt::format("which text to read? Give {} FILES", flag));
    }
    names.emplace_back(kCheckoutEssays);
  }
  const auto read = [](const fs::path& file) {
    try {
      return ReadDocument(file);
    } catch (const Error& error) {
      throw UsageError(error.what());
    }
  };
  std::vector<std::string> documents;
  for (const std::string& name : names) {
    if (!fs::is_directory(name, ignored)) {
      documents.push_back(read(name));
      continue;
    }
    std::vector<fs::path> files;
    for (const fs::directory_entry& entry : fs::directory_iterator(name)) {
      if (entry.path().extension() == ".txt") files.push_back(entry.path());
    }
    if (files.empty()) throw UsageError(fmt::format("there is no .txt file in {}", name));
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files) documents.push_back(read(file));
  }
  return documents;
}

void AddTextFlag(CommandLine& line, std::vector<std::string>& names) {
  line.Files("--text", names,
             "text files, or folders of .txt files, to cut pieces from (default: " +
                 std::string(kCheckoutEssays) + " if that is there)");
}

TextTask::TextTask(const std::vector<std::string>& names, const EvalFlags& flags)
    : flags_(flags),
      texts_(ReadTexts(names, "--text")),
      model_(flags.LoadModel()),
      options_(flags.ForSession(model_)),
      pieces_(model_.tokenizer(), texts_, flags.seed()) {}

void TextTask::CheckLengths(int64_t low, const std::string& why, int64_t n_after) const {
  flags_.CheckLengths(
      low, std::min(pieces_.longest(), ContextOf(model_, options_)) - n_after,
      fmt::format("{}what the context and the longest text ({} tokens) hold{}",
                  why.empty() ? "" : why + " and ", pieces_.longest(),
                  n_after > 0 ? fmt::format(" with the {} that follow", n_after) : ""));
}

nlohmann::ordered_json TextTask::Settings(const std::string& task, int version) const {
  nlohmann::ordered_json json = {task, version, model_.info().fingerprint, flags_.seed()};
  nlohmann::ordered_json& hashes = json.emplace_back(nlohmann::ordered_json::array());
  for (const std::string& text : texts_) {
    hashes.push_back(fmt::format("{:016x}", XXH3_64bits(text.data(), text.size())));
  }
  return json;
}

}  // namespace pith::cli
