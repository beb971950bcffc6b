#include "text/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "base/fail.h"
#include "base/printable.h"
#include "text/pretokenizer_rules.h"
#include "text/utf8.h"

namespace pith {
namespace {

struct FreePcre2 {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
template <typename T>
using Pcre2 = std::unique_ptr<T, FreePcre2>;

// PCRE2's own `\s` also has U+180E, which is not White_Space any more.
std::string ExpandWhitespace(std::string_view expression) {
  constexpr std::string_view kWhitespace =
      R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < expression.size(); ++i) {
    const char c = expression[i];
    if (c != '\\') {
      if (c == '[') in_class = true;
      if (c == ']') in_class = false;
      out.push_back(c);
      continue;
    }
    const char escaped = expression[++i];
    if (escaped == 's') {
      out.append(in_class ? "" : "[").append(kWhitespace).append(in_class ? "" : "]");
    } else if (escaped == 'S') {
      out.append("[^").append(kWhitespace).append("]");
    } else {
      out.append({c, escaped});
    }
  }
  return out;
}

Pcre2<pcre2_code> Compile(std::string_view expression) {
  const std::string pattern = ExpandWhitespace(expression);
  int error = 0;
  PCRE2_SIZE offset = 0;
  Pcre2<pcre2_code> code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                       PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &error, &offset,
                                       nullptr));
  if (!code) {
    Fail(ErrorCode::kUnsupported, "PCRE2 rejects the expression '{}' at {} (error {})", pattern,
         offset, error);
  }
  // Where the system forbids JIT, pcre2_match interprets, which is slower and gives the same.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

const PreTokenizerRule& FindRule(std::string_view name) {
  for (const PreTokenizerRule& rule : PreTokenizerRules()) {
    if (std::find(rule.names.begin(), rule.names.end(), name) != rule.names.end()) return rule;
  }
  Fail(ErrorCode::kUnsupported, "unknown pre-tokenizer '{}', expected one of {}", Printable(name),
       fmt::join(PreTokenizerNames(), ", "));
}

// `text` with each byte that is not UTF-8 replaced by U+FFFD, and where those lie in the result.
struct Substituted {
  std::string text;
  std::vector<size_t> places;
};

Substituted ReplaceIllFormed(std::string_view text) {
  Substituted result;
  while (!text.empty()) {
    const size_t valid = ValidUtf8Prefix(text);
    result.text.append(text.substr(0, valid));
    text.remove_prefix(valid);
    if (text.empty()) break;
    const size_t length = NextUtf8(text).length;
    for (size_t i = 0; i < length; ++i) {
      result.places.push_back(result.text.size());
      result.text.append(kReplacementCharacter);
    }
    text.remove_prefix(length);
  }
  return result;
}

}  // namespace

struct PreTokenizer::Impl {
  explicit Impl(const PreTokenizerRule& rule_in) : rule(rule_in) {
    for (std::string_view stage : rule.stages) stages.push_back(Compile(stage));
    context.reset(pcre2_match_context_create(nullptr));
    pcre2_set_match_limit(context.get(), std::numeric_limits<uint32_t>::max());
  }

  // Appends the pieces of `piece`, which is UTF-8.
  void Cut(const pcre2_code* code, pcre2_match_data* data, std::string_view piece,
           std::vector<std::string_view>& out) const {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(piece.data());
    size_t done = 0;
    size_t from = 0;
    while (from < piece.size()) {
      const int found =
          pcre2_match(code, subject, piece.size(), from, PCRE2_NO_UTF_CHECK, data, context.get());
      if (found == PCRE2_ERROR_NOMATCH) break;
      size_t begin = from;
      size_t end = from;
      if (found > 0) {
        const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data);
        begin = bounds[0];
        end = bounds[1];
      }
      // An empty match, or a limit of PCRE2's that was reached: go on behind the next character.
      if (end <= begin) {
        from = begin + NextUtf8(piece.substr(begin)).length;
        continue;
      }
      if (begin > done) out.push_back(piece.substr(done, begin - done));
      out.push_back(piece.substr(begin, end - begin));
      done = from = end;
    }
    if (done < piece.size()) out.push_back(piece.substr(done));
  }

  std::vector<std::string_view> SplitUtf8(std::string_view text) const {
    Pcre2<pcre2_match_data> data(pcre2_match_data_create(1, nullptr));
    std::vector<std::string_view> pieces;
    if (!text.empty()) pieces.push_back(text);
    std::vector<std::string_view> next;
    for (const Pcre2<pcre2_code>& stage : stages) {
      next.clear();
      next.reserve(pieces.size() + text.size() / 8);
      for (std::string_view piece : pieces) Cut(stage.get(), data.get(), piece, next);
      std::swap(pieces, next);
    }
    return pieces;
  }

  const PreTokenizerRule& rule;
  std::vector<Pcre2<pcre2_code>> stages;
  Pcre2<pcre2_match_context> context;
};

PreTokenizer::PreTokenizer(std::string_view name) : impl_(new Impl(FindRule(name))) {}
PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;

bool PreTokenizer::ignore_merges() const { return impl_->rule.ignore_merges; }
bool PreTokenizer::adds_bos() const { return impl_->rule.adds_bos; }

std::vector<std::string_view> PreTokenizer::Split(std::string_view text) const {
  if (ValidUtf8Prefix(text) == text.size()) return impl_->SplitUtf8(text);
  const Substituted clean = ReplaceIllFormed(text);
  std::vector<std::string_view> pieces = impl_->SplitUtf8(clean.text);
  size_t clean_end = 0;
  size_t end = 0;
  auto place = clean.places.begin();
  for (std::string_view& piece : pieces) {
    clean_end += piece.size();
    size_t length = piece.size();
    for (; place != clean.places.end() && *place < clean_end; ++place) {
      length -= kReplacementCharacter.size() - 1;
    }
    piece = text.substr(end, length);
    end += length;
  }
  return pieces;
}

std::vector<std::string_view> PreTokenizerNames() {
  std::vector<std::string_view> names;
  for (const PreTokenizerRule& rule : PreTokenizerRules()) {
    names.insert(names.end(), rule.names.begin(), rule.names.end());
  }
  return names;
}

std::vector<std::string_view> PreTokenize(std::string_view name, std::string_view text) {
  return PreTokenizer(name).Split(text);
}

}  // namespace pith
