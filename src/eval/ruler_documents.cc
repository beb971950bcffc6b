#include "eval/ruler_documents.h"

#include <map>
#include <nlohmann/json.hpp>

#include "base/fail.h"

namespace pith {
namespace {

using Json = nlohmann::json;

// Every document once.
class Collection {
 public:
  explicit Collection(std::vector<std::string>& documents) : documents_(documents) {}

  size_t Add(const std::string& document) {
    const auto [place, is_new] = places_.try_emplace(document, documents_.size());
    if (is_new) documents_.push_back(document);
    return place->second;
  }

 private:
  std::vector<std::string>& documents_;
  std::map<std::string, size_t> places_;
};

// `read` of the parsed text; whatever is missing or of another type is said in one sentence.
template <typename Reader>
RulerDocuments Parse(std::string_view json, const std::string& name, const char* what,
                     const Reader& read) {
  RulerDocuments documents;
  try {
    read(Json::parse(json), documents);
  } catch (const Json::parse_error& error) {
    Fail(ErrorCode::kFormat, "{} is not JSON (at byte {}), expected a file of {}", name, error.byte,
         what);
  } catch (const Json::exception& error) {
    // Without the library's own "[json.exception.type_error.302] " before it.
    const std::string_view reason = error.what();
    const size_t begin = reason.find("] ");
    Fail(ErrorCode::kFormat, "{} is not a file of {}: {}", name, what,
         begin == std::string_view::npos ? reason : reason.substr(begin + 2));
  }
  if (documents.questions.empty()) {
    Fail(ErrorCode::kFormat, "{} has no question that can be answered, expected a file of {}", name,
         what);
  }
  return documents;
}

}  // namespace

RulerDocuments ReadSquad(std::string_view json, const std::string& name) {
  return Parse(json, name, "SQuAD", [](const Json& file, RulerDocuments& documents) {
    Collection collection(documents.documents);
    for (const Json& article : file.at("data")) {
      std::vector<size_t> of_article;
      for (const Json& paragraph : article.at("paragraphs")) {
        of_article.push_back(collection.Add(paragraph.at("context").get<std::string>()));
      }
      for (size_t i = 0; i < of_article.size(); ++i) {
        for (const Json& asked : article.at("paragraphs")[i].at("qas")) {
          if (asked.value("is_impossible", false)) continue;
          RulerDocuments::Question question = {asked.at("question").get<std::string>(), {}, {}, {}};
          for (const Json& answer : asked.at("answers")) {
            question.answers.push_back(answer.at("text").get<std::string>());
          }
          if (question.answers.empty()) continue;
          question.own = {of_article[i]};
          for (const size_t other : of_article) {
            if (other != of_article[i]) question.related.push_back(other);
          }
          documents.questions.push_back(std::move(question));
        }
      }
    }
  });
}

RulerDocuments ReadHotpotQa(std::string_view json, const std::string& name) {
  return Parse(json, name, "HotpotQA", [](const Json& file, RulerDocuments& documents) {
    Collection collection(documents.documents);
    for (const Json& asked : file) {
      RulerDocuments::Question question = {
          asked.at("question").get<std::string>(), {asked.at("answer").get<std::string>()}, {}, {}};
      for (const Json& paragraph : asked.at("context")) {
        std::string document = paragraph.at(0).get<std::string>() + "\n";
        for (const Json& sentence : paragraph.at(1)) document += sentence.get<std::string>();
        question.own.push_back(collection.Add(document));
      }
      if (!question.own.empty()) documents.questions.push_back(std::move(question));
    }
  });
}

}  // namespace pith
