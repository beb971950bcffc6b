#include "eval/ruler_prompts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numbers>
#include <set>

#include "base/fail.h"

namespace pith {
namespace {

struct Chain {
  std::string value;
  std::vector<std::string> variables;
  std::vector<std::string> statements;
};

// One chain of 4 hops; every statement that copies a variable ends with a space.
Chain DrawChain(int letters, SeededRandom& random) {
  constexpr size_t kHops = 4;
  Chain chain;
  while (chain.variables.size() <= kHops) {
    const std::string variable = DrawLetters(letters, 'A', random);
    if (std::find(chain.variables.begin(), chain.variables.end(), variable) ==
        chain.variables.end()) {
      chain.variables.push_back(variable);
    }
  }
  chain.value = fmt::format("{}", 10000 + random.Below(89999));
  chain.statements.push_back(fmt::format("VAR {} = {}", chain.variables[0], chain.value));
  for (size_t hop = 1; hop <= kHops; ++hop) {
    chain.statements.push_back(
        fmt::format("VAR {} = VAR {} ", chain.variables[hop], chain.variables[hop - 1]));
  }
  return chain;
}

// A chain of assignments in noise.
RulerPrompt Tracking(int letters, SeededRandom& random) {
  const Chain chain = DrawChain(letters, random);
  std::vector<double> depths;
  for (size_t i = 0; i < chain.statements.size(); ++i) depths.push_back(random.Unit());
  std::sort(depths.begin(), depths.end());
  RulerPrompt prompt;
  prompt.references = chain.variables;
  prompt.fewest = static_cast<int64_t>(chain.statements.size());
  prompt.text = [chain, depths](int64_t n) {
    const std::vector<std::string> lines(static_cast<size_t>(n), std::string(kRulerNoise) + "\n");
    std::string context =
        fmt::format("{}", fmt::join(Interleave(lines, chain.statements, depths), " "));
    context.pop_back();  // the line break that begins the question
    return "Memorize and track the chain(s) of variable assignment hidden in the following text."
           "\n\n" +
           context;
  };
  prompt.question = fmt::format(
      "\n\nQuestion: Find all variables that are assigned the value {} in the text above.",
      chain.value);
  // As published.
  prompt.lead = fmt::format(
      " Answer: According to the chain(s) of variable assignment in the text above, {} variables "
      "are assgined the value {}, they are: ",
      chain.variables.size(), chain.value);
  return prompt;
}

// The first `n_common` words `common` times, the others `others` times, in any order.
std::string NumberedList(std::span<const std::string> words, size_t n_common, int common,
                         int others, SeededRandom random) {
  std::vector<std::string_view> list;
  for (size_t i = 0; i < words.size(); ++i) {
    for (int times = i < n_common ? common : others; times > 0; --times) list.push_back(words[i]);
  }
  Shuffle(list, random);
  std::string text =
      "Below is a numbered list of words. In these words, some appear more often than others. "
      "Memorize the ones that appear most often.\n";
  for (size_t i = 0; i < list.size(); ++i) {
    text += fmt::format("{}{}. {}", i > 0 ? " " : "", i + 1, list[i]);
  }
  return text;
}

}  // namespace

std::string DrawWords(const RulerWords& words, SeededRandom& random) {
  const std::string& noun = words.nouns[random.Below(words.nouns.size())];
  return fmt::format("{}-{}", words.adjectives[random.Below(words.adjectives.size())], noun);
}

std::string DrawUuid(SeededRandom& random) {
  const uint64_t high = (random.Next() & ~uint64_t{0xf000}) | 0x4000;
  const uint64_t low = (random.Next() >> 2) | uint64_t{1} << 63;
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32, high >> 16 & 0xffff,
                     high & 0xffff, low >> 48, low & 0xffffffffffff);
}

std::string DrawLetters(int n, char first, SeededRandom& random) {
  std::string letters;
  for (int i = 0; i < n; ++i) letters += static_cast<char>(first + random.Below(26));
  return letters;
}

std::vector<std::string> Interleave(const std::vector<std::string>& lines,
                                    const std::vector<std::string>& parts,
                                    const std::vector<double>& depths) {
  std::vector<std::string> all;
  size_t next = 0;
  for (size_t i = 0; i < lines.size(); ++i) {
    while (next < parts.size() &&
           depths[next] * static_cast<double>(lines.size()) < static_cast<double>(i + 1)) {
      all.push_back(parts[next++]);
    }
    all.push_back(lines[i]);
  }
  all.insert(all.end(), parts.begin() + static_cast<std::ptrdiff_t>(next), parts.end());
  return all;
}

RulerPrompt DrawVariableTracking(RulerDraw draw) {
  // The example: shorter names, as many fives of noise as 500 tokens hold.
  constexpr int64_t kExampleTokens = 500;
  const RulerPrompt example = Tracking(3, draw.random);
  const auto solved = [&](int64_t fives) {
    return fmt::format("{}{}{} {}\n\n\n\n", example.text(5 * fives), example.question, example.lead,
                       fmt::join(example.references, " "));
  };
  const int64_t fives = MostThatFit(2, [&](int64_t n) {
    const size_t tokens = draw.tokenizer.Encode(solved(n)).size();
    return static_cast<int64_t>(tokens) + draw.answer_tokens <= kExampleTokens;
  });
  RulerPrompt prompt = Tracking(5, draw.random);
  prompt.text = [before = solved(std::max<int64_t>(fives, 1)), text = prompt.text](int64_t n) {
    return before + text(n);
  };
  return prompt;
}

RulerPrompt DrawCommonWords(RulerDraw draw) {
  constexpr size_t kCommon = 10;
  constexpr int64_t kLong = 4096;
  const bool is_short = draw.length < kLong;
  const int common = is_short ? 6 : 30;
  const int others = is_short ? 1 : 3;
  const size_t n_example = is_short ? 20 : 40;

  std::vector<std::string> words;
  for (const auto* list :
       {&draw.data.words->nouns, &draw.data.words->adjectives, &draw.data.words->verbs}) {
    words.insert(words.end(), list->begin(), list->end());
  }
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
  if (words.size() < n_example) {
    Fail(ErrorCode::kInvalidArgument, "{} different words are too few for cwe, expected {} or more",
         words.size(), n_example);
  }
  Shuffle(words, draw.random);
  const std::vector<std::string> of_example(words.begin(),
                                            words.begin() + static_cast<std::ptrdiff_t>(n_example));
  Shuffle(words, draw.random);

  RulerPrompt prompt;
  prompt.question = "\nQuestion: What are the 10 most common words in the above list?";
  prompt.lead = " Answer: The top 10 words that appear most often in the list are:";
  prompt.references.assign(words.begin(), words.begin() + kCommon);
  prompt.fewest = kCommon;
  prompt.most = static_cast<int64_t>(words.size());
  std::string example = NumberedList(of_example, kCommon, is_short ? 3 : 10, others, draw.random) +
                        prompt.question + prompt.lead;
  for (size_t i = 0; i < kCommon; ++i) example += fmt::format(" {}. {}", i + 1, of_example[i]);
  prompt.text = [=, random = draw.random](int64_t n) {
    return example + "\n" +
           NumberedList(std::span(words).first(static_cast<size_t>(n)), kCommon, common, others,
                        random);
  };
  return prompt;
}

RulerPrompt DrawFrequentWords(RulerDraw draw) {
  constexpr double kZeta = std::numbers::pi * std::numbers::pi / 6;  // of 2
  constexpr int64_t kTokensPerWord = 50;
  const int64_t n_coded = std::max<int64_t>((draw.length - draw.answer_tokens) / kTokensPerWord, 5);
  std::set<std::string> taken;
  std::vector<std::string> coded = {"..."};  // the most frequent one is noise
  while (static_cast<int64_t>(coded.size()) < n_coded) {
    const std::string word = DrawLetters(6, 'a', draw.random);
    if (taken.insert(word).second) coded.push_back(word);
  }
  RulerPrompt prompt;
  prompt.references.assign(coded.begin() + 1, coded.begin() + 4);
  prompt.fewest = 80;  // from which on the fourth word is more frequent than the fifth
  prompt.text = [coded, random = draw.random](int64_t n) {
    std::vector<std::string_view> words;
    for (size_t i = 0; i < coded.size(); ++i) {
      const auto rank = static_cast<double>(i + 1);
      const double share = 1 / (rank * rank * kZeta);
      words.insert(words.end(), static_cast<size_t>(static_cast<double>(n) * share), coded[i]);
    }
    SeededRandom order = random;
    Shuffle(words, order);
    return fmt::format(
        "Read the following coded text and track the frequency of each coded word. Find the three "
        "most frequently appeared coded words. {}",
        fmt::join(words, " "));
  };
  prompt.question =
      "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the "
      "three "
      "most frequently appeared words in the above coded text?";
  prompt.lead =
      " Answer: According to the coded text above, the three most frequently appeared words are:";
  return prompt;
}

RulerPrompt DrawDocuments(const RulerDocuments& all, RulerDraw draw) {
  const RulerDocuments::Question& asked = all.questions[draw.random.Below(all.questions.size())];
  // The related ones, then all others, in any order.
  std::vector<size_t> more = asked.related;
  Shuffle(more, draw.random);
  std::set<size_t> known(asked.own.begin(), asked.own.end());
  known.insert(more.begin(), more.end());
  std::vector<size_t> others;
  for (size_t i = 0; i < all.documents.size(); ++i) {
    if (!known.contains(i)) others.push_back(i);
  }
  Shuffle(others, draw.random);
  more.insert(more.end(), others.begin(), others.end());

  const std::string instruction =
      "Answer the question based on the given documents. Only give me the answer and do not output "
      "any other words.";
  RulerPrompt prompt;
  prompt.most = static_cast<int64_t>(more.size());
  prompt.text = [=, &all, own = asked.own, random = draw.random](int64_t n) {
    std::vector<size_t> shown = own;
    shown.insert(shown.end(), more.begin(), more.begin() + static_cast<std::ptrdiff_t>(n));
    SeededRandom order = random;
    Shuffle(shown, order);
    std::string text = instruction + "\n\nThe following are given documents.";
    for (size_t i = 0; i < shown.size(); ++i) {
      text += fmt::format("\n\nDocument {}:\n{}", i + 1, all.documents[shown[i]]);
    }
    return text;
  };
  prompt.question = fmt::format("\n\n{}\n\nQuestion: {}", instruction, asked.text);
  prompt.lead = " Answer:";
  prompt.references = asked.answers;
  return prompt;
}

}  // namespace pith
