#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/fail.h"
#include "eval/ruler_prompts.h"

namespace pith {
namespace {

std::string_view NameOf(RulerValue value) {
  switch (value) {
    case RulerValue::kWords:
      return "word";
    case RulerValue::kNumbers:
      return "number";
    case RulerValue::kUuids:
      return "uuid";
  }
  return "";
}

std::string DrawValue(RulerValue kind, const RulerData& data, SeededRandom& random) {
  switch (kind) {
    case RulerValue::kWords:
      return DrawWords(*data.words, random);
    case RulerValue::kNumbers:
      return fmt::format("{}", 1000000 + random.Below(9000000));
    case RulerValue::kUuids:
      return DrawUuid(random);
  }
  return "";
}

std::string Needle(RulerValue kind, const std::string& key, const std::string& value) {
  return fmt::format("One of the special magic {}s for {} is: {}.", NameOf(kind), key, value);
}

// Of 40 evenly spaced depths, none twice.
std::vector<double> DrawDepths(size_t n, SeededRandom& random) {
  std::vector<double> depths;
  for (int i = 0; i < 40; ++i) depths.push_back(std::round(100.0 * i / 39) / 100);
  Shuffle(depths, random);
  depths.resize(n);
  std::sort(depths.begin(), depths.end());
  return depths;
}

// `hay` with a needle before the sentence at each depth, or at the very end.
std::string HideInEssays(std::string_view hay, const std::vector<std::string>& needles,
                         const std::vector<double>& depths) {
  std::vector<size_t> starts = SentenceStarts(hay);
  const auto n_sentences = static_cast<double>(starts.size());
  starts.push_back(hay.size());
  std::string text;
  size_t done = 0;
  for (size_t i = 0; i < needles.size(); ++i) {
    const size_t place = starts[static_cast<size_t>(n_sentences * depths[i])];
    text += hay.substr(done, place - done);
    done = place;
    if (!text.empty() && text.back() != ' ') text += ' ';
    text += needles[i];
    if (done < hay.size()) text += ' ';
  }
  text += hay.substr(done);
  return text;
}

[[noreturn]] void FailForWords() {
  Fail(ErrorCode::kInvalidArgument,
       "the lists of words are too short to make different keys of, expected dozens of each kind");
}

// "a", "a, and b", "a, b, and c"
std::string Listed(const std::vector<std::string>& keys) {
  if (keys.size() == 1) return keys.front();
  return fmt::format("{}, and {}", fmt::join(keys.begin(), keys.end() - 1, ", "), keys.back());
}

}  // namespace

RulerPrompt DrawNeedles(const RulerNeedles& shape, RulerDraw draw) {
  SeededRandom random = draw.random;
  std::vector<std::string> keys, needles;
  RulerPrompt prompt;
  std::set<std::string> taken;
  const auto draw_new = [&](RulerValue kind) {
    for (int attempt = 0; attempt < 1000; ++attempt) {
      std::string value = DrawValue(kind, draw.data, random);
      if (taken.insert(value).second) return value;
    }
    FailForWords();
  };
  for (int k = 0; k < shape.n_keys; ++k) {
    keys.push_back(draw_new(shape.key));
    for (int v = 0; v < shape.n_values; ++v) {
      const std::string value = draw_new(shape.value);
      needles.push_back(Needle(shape.value, keys.back(), value));
      if (k < shape.n_queries) prompt.references.push_back(value);
    }
  }
  const std::string query =
      Listed({keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(shape.n_queries)});
  Shuffle(needles, random);

  const bool is_one = shape.n_values * shape.n_queries == 1;
  const std::string name = fmt::format("{}{}", NameOf(shape.value), is_one ? "" : "s");
  const std::string first_lines = fmt::format(
      "{0} special magic {1} {2} hidden within the following text. Make sure to memorize it. I "
      "will quiz you about the {1} afterwards.\n",
      is_one ? "A" : "Some", name, is_one ? "is" : "are");
  const std::string asked =
      fmt::format("special magic {} for {} mentioned in the provided text", name, query);
  prompt.question = fmt::format("\nWhat {} the {}?", is_one ? "is" : "are all", asked);
  prompt.lead = fmt::format(" The {} {}", asked, is_one ? "is" : "are");

  if (shape.hay == RulerHay::kEssays) {
    const std::vector<double> depths = DrawDepths(needles.size(), random);
    const uint64_t first = random.Below(draw.data.essays->n_sentences());
    prompt.text = [=, essays = draw.data.essays](int64_t n) {
      const auto bytes = static_cast<size_t>(n);
      const std::string hay = essays->From(first, bytes + 1);
      return first_lines +
             HideInEssays(std::string_view(hay).substr(0, WordCut(hay, bytes)), needles, depths);
    };
    return prompt;
  }
  std::vector<double> depths;
  for (size_t i = 0; i < needles.size(); ++i) depths.push_back(random.Unit());
  std::sort(depths.begin(), depths.end());
  prompt.text = [=, data = draw.data](int64_t n) {
    std::vector<std::string> lines;
    if (shape.hay == RulerHay::kNoise) {
      lines.assign(static_cast<size_t>(n), std::string(kRulerNoise));
    }
    SeededRandom others = random;
    for (int64_t attempt = 0; static_cast<int64_t>(lines.size()) < n; ++attempt) {
      if (attempt > 100 + 10 * n) FailForWords();
      const std::string key = DrawValue(shape.key, data, others);
      const std::string value = DrawValue(shape.value, data, others);
      if (!taken.contains(key)) lines.push_back(Needle(shape.value, key, value));
    }
    return first_lines + fmt::format("{}", fmt::join(Interleave(lines, needles, depths), "\n"));
  };
  return prompt;
}

}  // namespace pith
