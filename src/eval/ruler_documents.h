// Questions with the documents that answer them, from the files of SQuAD and HotpotQA.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pith {

struct RulerDocuments {
  struct Question {
    std::string text;
    std::vector<std::string> answers;  // at least one
    std::vector<size_t> own;           // documents that are always there, at least one
    std::vector<size_t> related;       // that are there before any other
  };
  std::vector<std::string> documents;
  std::vector<Question> questions;  // at least one
};

// JSON of SQuAD 1.1 or 2.0 (arXiv 1606.05250, 1806.03822): paragraphs, and the questions that they
// can answer; related are the paragraphs of the same article.
// Throws Error(kFormat) that begins with `name`.
RulerDocuments ReadSquad(std::string_view json, const std::string& name);

// JSON of HotpotQA in its distractor setting (arXiv 1809.09600): paragraphs under their titles.
RulerDocuments ReadHotpotQa(std::string_view json, const std::string& name);

}  // namespace pith
