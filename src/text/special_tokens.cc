#include "text/special_tokens.h"

#include <algorithm>
#include <functional>
#include <map>

namespace pith {
namespace {

uint8_t FirstByte(std::string_view text) { return static_cast<uint8_t>(text.front()); }

bool IsMarkupOnly(TokenType type) {
  return type == TokenType::kControl || type == TokenType::kUnknown;
}

bool IsInside(std::span<const TextRange> ranges, TextRange range) {
  const auto after = std::upper_bound(
      ranges.begin(), ranges.end(), range.begin,
      [](size_t begin, const TextRange& candidate) { return begin < candidate.begin; });
  return after != ranges.begin() && range.end <= std::prev(after)->end;
}

bool IsAsciiSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

}  // namespace

SpecialTokens::SpecialTokens(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {
  std::map<size_t, Group, std::greater<>> by_length;
  for (Token id = 0; id < vocabulary.size(); ++id) {
    const std::string_view text = vocabulary.texts[id];
    const TokenType type = vocabulary.types[id];
    if (text.empty() || !(IsMarkupOnly(type) || type == TokenType::kUserDefined)) continue;
    Group& group = by_length[text.size()];
    group.length = text.size();
    group.first_bytes.set(FirstByte(text));
    group.tokens.emplace(text, id);
    first_bytes_.set(FirstByte(text));
  }
  for (auto& [length, group] : by_length) groups_.push_back(std::move(group));
}

const SpecialTokens::Group* SpecialTokens::Longest(std::string_view text) const {
  for (const Group& group : groups_) {
    if (group.length <= text.size() && group.first_bytes[FirstByte(text)] &&
        group.tokens.contains(text.substr(0, group.length))) {
      return &group;
    }
  }
  return nullptr;
}

std::vector<Fragment> SpecialTokens::Partition(std::string_view text,
                                               std::span<const TextRange> markup) const {
  struct Candidate {
    size_t begin = 0;
    const Group* longest = nullptr;
  };
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < text.size(); ++i) {
    if (!first_bytes_[FirstByte(text.substr(i))]) continue;
    if (const Group* group = Longest(text.substr(i))) candidates.push_back({i, group});
  }

  std::vector<Fragment> found;
  std::vector<bool> taken(candidates.empty() ? 0 : text.size());
  for (const Group& group : groups_) {
    if (candidates.empty()) break;
    for (const Candidate& candidate : candidates) {
      if (group.length > candidate.longest->length) continue;
      const TextRange range{candidate.begin, candidate.begin + group.length};
      // What was taken before is at least as long, so it would cover one of the two ends.
      if (range.end > text.size() || taken[range.begin] || taken[range.end - 1]) continue;
      const auto token = group.tokens.find(text.substr(range.begin, group.length));
      if (token == group.tokens.end()) continue;
      if (IsMarkupOnly(vocabulary_.types[token->second]) && !IsInside(markup, range)) continue;
      std::fill(taken.begin() + static_cast<std::ptrdiff_t>(range.begin),
                taken.begin() + static_cast<std::ptrdiff_t>(range.end), true);
      found.push_back({range, token->second});
    }
  }
  std::sort(found.begin(), found.end(),
            [](const Fragment& a, const Fragment& b) { return a.range.begin < b.range.begin; });

  std::vector<Fragment> fragments;
  size_t done = 0;
  for (const Fragment& special : found) {
    if (special.range.begin > done) fragments.push_back({{done, special.range.begin}, -1});
    fragments.push_back(special);
    done = special.range.end;
  }
  if (done < text.size()) fragments.push_back({{done, text.size()}, -1});
  if (vocabulary_.strips_after_special) DropSpaceAfterSpecial(text, fragments);
  return fragments;
}

void SpecialTokens::DropSpaceAfterSpecial(std::string_view text,
                                          std::vector<Fragment>& fragments) const {
  for (size_t i = 1; i < fragments.size(); ++i) {
    const Token token = fragments[i - 1].token;
    if (token < 0 || fragments[i].token >= 0) continue;
    const std::string_view name = vocabulary_.texts[token];
    if (name == "<unk>" || name == "<s>" || name == "<|endoftext|>") continue;
    TextRange& range = fragments[i].range;
    while (range.begin < range.end && IsAsciiSpace(text[range.begin])) ++range.begin;
  }
  std::erase_if(fragments, [](const Fragment& fragment) {
    return fragment.token < 0 && fragment.range.begin == fragment.range.end;
  });
}

}  // namespace pith
