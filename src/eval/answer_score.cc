#include "eval/answer_score.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "text/utf8.h"

namespace pith {
namespace {

constexpr std::string_view kSpaces = " \t\n\v\f\r";
constexpr std::string_view kPunctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// Between any of `separators`; empty parts are left out.
std::vector<std::string_view> Split(std::string_view text, std::string_view separators) {
  std::vector<std::string_view> parts;
  size_t at = text.find_first_not_of(separators);
  while (at != std::string_view::npos) {
    const size_t end = std::min(text.find_first_of(separators, at), text.size());
    parts.push_back(text.substr(at, end - at));
    at = text.find_first_not_of(separators, end);
  }
  return parts;
}

double F1(double common, size_t n_answer, size_t n_reference) {
  if (common == 0) return 0;
  const double precision = common / static_cast<double>(n_answer);
  const double recall = common / static_cast<double>(n_reference);
  return 2 * precision * recall / (precision + recall);
}

std::map<std::string, int> BagOfWords(std::string_view text, size_t& n_words) {
  std::string plain;
  for (char c : text) {
    if (kPunctuation.find(c) == std::string_view::npos) plain += Lower(c);
  }
  std::map<std::string, int> bag;
  n_words = 0;
  for (std::string_view word : Split(plain, kSpaces)) {
    if (word == "a" || word == "an" || word == "the") continue;
    ++bag[std::string(word)];
    ++n_words;
  }
  return bag;
}

using Words = std::vector<std::string_view>;

// A sentence of nothing but spaces is one empty word, as it is for `rouge`.
std::vector<Words> SentencesOf(std::string_view text) {
  std::vector<Words> sentences;
  for (std::string_view sentence : Split(text, ".")) {
    sentences.push_back(Split(sentence, kSpaces));
    if (sentences.back().empty()) sentences.back().push_back("");
  }
  return sentences;
}

std::set<std::string_view> Vocabulary(const std::vector<Words>& sentences) {
  std::set<std::string_view> words;
  for (const Words& sentence : sentences) words.insert(sentence.begin(), sentence.end());
  return words;
}

// Adds the words of one longest common subsequence; of several, the one that `rouge` finds.
void AddCommon(const Words& reference, const Words& answer, std::set<std::string_view>& common) {
  const size_t columns = answer.size() + 1;
  std::vector<int> length((reference.size() + 1) * columns, 0);
  for (size_t i = 1; i <= reference.size(); ++i) {
    for (size_t j = 1; j <= answer.size(); ++j) {
      length[i * columns + j] =
          reference[i - 1] == answer[j - 1]
              ? length[(i - 1) * columns + j - 1] + 1
              : std::max(length[(i - 1) * columns + j], length[i * columns + j - 1]);
    }
  }
  for (size_t i = reference.size(), j = answer.size(); i > 0 && j > 0;) {
    if (reference[i - 1] == answer[j - 1]) {
      common.insert(reference[i - 1]);
      --i;
      --j;
    } else if (length[(i - 1) * columns + j] > length[i * columns + j - 1]) {
      --i;
    } else {
      --j;
    }
  }
}

// Characters; of what is not UTF-8, bytes.
std::u32string Characters(std::string_view text) {
  std::u32string characters;
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    char32_t character = static_cast<unsigned char>(text[0]);
    if (step.kind == Utf8Kind::kValid && step.length > 1) {
      character &= 0x7fu >> step.length;
      for (size_t i = 1; i < step.length; ++i) {
        character = character << 6 | (static_cast<unsigned char>(text[i]) & 0x3f);
      }
    }
    characters += character;
    text.remove_prefix(step.length);
  }
  return characters;
}

// Where every character stands in `text`, but those that are "popular" for difflib.
std::map<char32_t, std::vector<size_t>> PlacesOf(std::u32string_view text) {
  std::map<char32_t, std::vector<size_t>> places;
  for (size_t i = 0; i < text.size(); ++i) places[text[i]].push_back(i);
  constexpr size_t kLong = 200;
  if (text.size() >= kLong) {
    std::erase_if(places,
                  [&](const auto& item) { return item.second.size() > text.size() / 100 + 1; });
  }
  return places;
}

struct Block {
  size_t a_begin, a_end, b_begin, b_end;
};

// The longest match within a block, the first of them in a and then in b: begin in a, in b, length.
struct Match {
  size_t a, b, length;
};

Match LongestMatch(std::u32string_view a, std::u32string_view b,
                   const std::map<char32_t, std::vector<size_t>>& places, const Block& block) {
  Match best = {block.a_begin, block.b_begin, 0};
  std::map<size_t, size_t>
      lengths;  // of matches that end at the last character of a, by place in b
  for (size_t i = block.a_begin; i < block.a_end; ++i) {
    std::map<size_t, size_t> grown;
    const auto found = places.find(a[i]);
    if (found != places.end()) {
      for (const size_t j : found->second) {
        if (j < block.b_begin) continue;
        if (j >= block.b_end) break;
        const auto before = j == 0 ? lengths.end() : lengths.find(j - 1);
        const size_t length = before == lengths.end() ? 1 : before->second + 1;
        grown[j] = length;
        if (length > best.length) best = {i + 1 - length, j + 1 - length, length};
      }
    }
    lengths = std::move(grown);
  }
  // Popular characters may stand beside it.
  while (best.a > block.a_begin && best.b > block.b_begin && a[best.a - 1] == b[best.b - 1]) {
    --best.a;
    --best.b;
    ++best.length;
  }
  while (best.a + best.length < block.a_end && best.b + best.length < block.b_end &&
         a[best.a + best.length] == b[best.b + best.length]) {
    ++best.length;
  }
  return best;
}

double RatcliffObershelp(std::u32string_view a, std::u32string_view b) {
  if (a == b) return 1;
  const auto places = PlacesOf(b);
  size_t matched = 0;
  std::vector<Block> blocks = {{0, a.size(), 0, b.size()}};
  while (!blocks.empty()) {
    const Block block = blocks.back();
    blocks.pop_back();
    const Match match = LongestMatch(a, b, places, block);
    if (match.length == 0) continue;
    matched += match.length;
    blocks.push_back({block.a_begin, match.a, block.b_begin, match.b});
    blocks.push_back({match.a + match.length, block.a_end, match.b + match.length, block.b_end});
  }
  return 2 * static_cast<double>(matched) / static_cast<double>(a.size() + b.size());
}

}  // namespace

bool Names(std::string_view answer, std::string_view value) {
  return std::search(answer.begin(), answer.end(), value.begin(), value.end(),
                     [](char a, char b) { return Lower(a) == Lower(b); }) != answer.end();
}

double NamedShare(std::string_view answer, std::span<const std::string> references) {
  if (references.empty()) return 0;
  const auto named = std::count_if(references.begin(), references.end(),
                                   [&](const auto& value) { return Names(answer, value); });
  return static_cast<double>(named) / static_cast<double>(references.size());
}

double NamedAny(std::string_view answer, std::span<const std::string> references) {
  return NamedShare(answer, references) > 0 ? 1 : 0;
}

double WordF1(std::string_view answer, std::string_view reference) {
  size_t n_answer = 0, n_reference = 0;
  const auto said = BagOfWords(answer, n_answer);
  const auto wanted = BagOfWords(reference, n_reference);
  int common = 0;
  for (const auto& [word, count] : said) {
    const auto found = wanted.find(word);
    if (found != wanted.end()) common += std::min(count, found->second);
  }
  return F1(common, n_answer, n_reference);
}

double RougeL(std::string_view answer, std::string_view reference) {
  const std::vector<Words> said = SentencesOf(answer);
  const std::vector<Words> wanted = SentencesOf(reference);
  std::set<std::string_view> common;
  for (const Words& sentence : wanted) {
    for (const Words& other : said) AddCommon(sentence, other, common);
  }
  return F1(static_cast<double>(common.size()), Vocabulary(said).size(), Vocabulary(wanted).size());
}

double ClassShare(std::string_view answer, std::string_view reference,
                  std::span<const std::string> classes) {
  int n_named = 0;
  bool is_right = false;
  for (const std::string& name : classes) {
    if (answer.find(name) == std::string_view::npos) continue;
    if (name == reference) is_right = true;
    if (name == reference || reference.find(name) == std::string_view::npos) ++n_named;
  }
  return is_right ? 1.0 / n_named : 0;
}

double NumberShare(std::string_view answer, std::string_view number) {
  int n_right = 0, n_all = 0;
  for (size_t at = 0; at < answer.size();) {
    const size_t begin = answer.find_first_of("0123456789", at);
    if (begin == std::string_view::npos) break;
    const size_t end = std::min(answer.find_first_not_of("0123456789", begin), answer.size());
    ++n_all;
    n_right += answer.substr(begin, end - begin) == number ? 1 : 0;
    at = end;
  }
  return n_all == 0 ? 0 : static_cast<double>(n_right) / n_all;
}

double CodeSimilarity(std::string_view answer, std::string_view reference) {
  std::string_view code;
  answer.remove_prefix(std::min(answer.find_first_not_of('\n'), answer.size()));
  for (std::string_view rest = answer; !rest.empty();) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.find('`') == std::string_view::npos && line.find('#') == std::string_view::npos &&
        line.find("//") == std::string_view::npos) {
      code = line;
      break;
    }
  }
  const double ratio = RatcliffObershelp(Characters(code), Characters(reference));
  return std::nearbyint(100 * ratio) / 100;
}

}  // namespace pith
