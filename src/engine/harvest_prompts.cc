#include "engine/harvest_prompts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <random>
#include <string_view>

#include "base/fail.h"

namespace pith {
namespace {

constexpr std::array<std::string_view, 24> kNames = {
    "Amara", "Bogdan", "Chiara", "Dmitri", "Elif",  "Farid",  "Greta", "Hiroshi",
    "Ines",  "Jonas",  "Kavya",  "Lucien", "Maren", "Nadia",  "Oluwa", "Petra",
    "Quinn", "Rosa",   "Stefan", "Tomas",  "Usha",  "Viktor", "Wanda", "Yusuf"};
constexpr std::array<std::string_view, 24> kThings = {
    "cellar",  "greenhouse", "boathouse", "library", "observatory", "workshop", "attic",  "bakery",
    "stables", "gallery",    "pharmacy",  "harbour", "archive",     "chapel",   "museum", "laundry",
    "kitchen", "depot",      "vineyard",  "theatre", "clinic",      "garage",   "tower",  "mill"};
constexpr std::array<std::string_view, 24> kWords = {
    "walnut", "cobalt", "thistle", "marble", "juniper", "copper",  "saffron", "willow",
    "basalt", "clover", "ginger",  "heron",  "indigo",  "jasmine", "linen",   "maple",
    "nutmeg", "onyx",   "pepper",  "quartz", "raven",   "sorrel",  "topaz",   "umber"};

using Random = std::mt19937_64;  // its own numbers are the same everywhere

uint64_t Below(Random& random, size_t n) { return random() % n; }

// Sentences that only memory can give back.
std::string Fact(Random& random) {
  const auto pick = [&](const auto& list) { return list[Below(random, list.size())]; };
  switch (Below(random, 5)) {
    case 0:
      return fmt::format(" The door of the {} opens with the code {}.", pick(kThings),
                         1000 + Below(random, 999000));
    case 1:
      return fmt::format(" {} left the spare key in the {} under the {} box.", pick(kNames),
                         pick(kThings), pick(kWords));
    case 2:
      return fmt::format(" {} can be reached in the {} by dialling {}.", pick(kNames),
                         pick(kThings), 100000 + Below(random, 9900000));
    case 3:
      return fmt::format(" The password that {} chose is {}-{}-{}.", pick(kNames), pick(kWords),
                         pick(kWords), Below(random, 1000));
    default:
      return fmt::format(" In {} the {} was sold to {} for {} crowns.", 1700 + Below(random, 300),
                         pick(kThings), pick(kNames), 100 + Below(random, 90000));
  }
}

struct Document {
  size_t index = 0;
  std::vector<Token> tokens;
};

void Check(const KvzapOptions& options, int n_sinks) {
  if (options.n_prompts < 3) {
    Fail(ErrorCode::kInvalidArgument,
         "{} prompts, expected 3 or more: training, validation and the held-out ones need one each",
         options.n_prompts);
  }
  if (options.min_tokens < n_sinks + 2 || options.max_tokens < options.min_tokens) {
    Fail(ErrorCode::kInvalidArgument,
         "prompts of {} to {} tokens, expected at least {} and the second not below the first",
         options.min_tokens, options.max_tokens, n_sinks + 2);
  }
  if (options.n_positions < 1) {
    Fail(ErrorCode::kInvalidArgument, "{} positions of a prompt, expected at least 1",
         options.n_positions);
  }
}

// For each split, documents that make up an eighth of all tokens or more; training takes the rest.
std::array<std::vector<Document>, 3> Divide(std::vector<Document> documents, Random& random) {
  for (size_t i = documents.size(); i > 1; --i) {
    std::swap(documents[i - 1], documents[Below(random, i)]);
  }
  size_t total = 0;
  for (const Document& document : documents) total += document.tokens.size();
  std::array<std::vector<Document>, 3> splits;
  size_t next = 0;
  for (const Split split : {Split::kHeldOut, Split::kValidation}) {
    auto& target = splits[static_cast<size_t>(split)];
    const size_t left_for_others = split == Split::kHeldOut ? 2 : 1;
    for (size_t taken = 0;
         (target.empty() || taken < total / 8) && next + left_for_others < documents.size();
         ++next) {
      taken += documents[next].tokens.size();
      target.push_back(std::move(documents[next]));
    }
  }
  for (; next < documents.size(); ++next) splits[0].push_back(std::move(documents[next]));
  return splits;
}

bool EndsSentence(const std::string& piece) {
  return !piece.empty() && std::string_view(".!?").find(piece.back()) != std::string_view::npos;
}

// Puts facts behind sentences of `tokens`.
void Plant(const Tokenizer& tokenizer, const std::vector<std::vector<Token>>& facts, Random& random,
           std::vector<Token>& tokens) {
  for (const std::vector<Token>& fact : facts) {
    std::vector<size_t> places;
    for (size_t i = 1; i < tokens.size(); ++i) {
      if (EndsSentence(tokenizer.Piece(tokens[i]))) places.push_back(i + 1);
    }
    const size_t at =
        places.empty() ? Below(random, tokens.size()) : places[Below(random, places.size())];
    tokens.insert(tokens.begin() + static_cast<int64_t>(at), fact.begin(), fact.end());
  }
}

// `n` of begin..end-1, or all of them, ascending.
std::vector<int32_t> SamplePositions(int32_t begin, int32_t end, int n, Random& random) {
  std::vector<int32_t> all(static_cast<size_t>(end - begin));
  std::iota(all.begin(), all.end(), begin);
  const size_t count = std::min(all.size(), static_cast<size_t>(n));
  for (size_t i = 0; i < count; ++i) std::swap(all[i], all[i + Below(random, all.size() - i)]);
  all.resize(count);
  std::sort(all.begin(), all.end());
  return all;
}

// Prompt `i` of `n` of a split, cut from the i-th of n equal stretches of all places where a
// shortest prompt can begin.
HarvestPrompt MakePrompt(const Tokenizer& tokenizer, const std::vector<Document>& documents,
                         size_t i, size_t n, bool plant, const KvzapOptions& options, int n_sinks,
                         Random& random) {
  const size_t least = static_cast<size_t>(options.min_tokens);
  size_t n_places = 0;
  for (const Document& document : documents) n_places += document.tokens.size() - least + 1;
  size_t place = n_places * i / n + Below(random, std::max<size_t>(1, n_places / n));
  place = std::min(place, n_places - 1);
  const Document* document = documents.data();
  for (; place >= document->tokens.size() - least + 1; ++document) {
    place -= document->tokens.size() - least + 1;
  }
  HarvestPrompt prompt;
  prompt.document = document->index;
  const bool bos = tokenizer.add_bos() && tokenizer.bos() >= 0;
  size_t length = least + Below(random, static_cast<size_t>(options.max_tokens) - least + 1);
  std::vector<std::vector<Token>> facts;
  size_t n_planted = bos ? 1 : 0;
  for (size_t left = plant ? 2 + Below(random, 3) : 0; left > 0; --left) {
    facts.push_back(tokenizer.Encode(Fact(random)));
    n_planted += facts.back().size();
    if (n_planted > least / 2) {
      n_planted -= facts.back().size();
      facts.pop_back();
    }
  }
  length = std::min(length - n_planted, document->tokens.size() - place);
  prompt.n_facts = static_cast<int>(facts.size());
  prompt.tokens.assign(document->tokens.begin() + static_cast<int64_t>(place),
                       document->tokens.begin() + static_cast<int64_t>(place + length));
  Plant(tokenizer, facts, random, prompt.tokens);
  if (bos) prompt.tokens.insert(prompt.tokens.begin(), tokenizer.bos());
  prompt.positions = SamplePositions(n_sinks, static_cast<int32_t>(prompt.tokens.size()),
                                     options.n_positions, random);
  return prompt;
}

}  // namespace

const char* SplitName(Split split) {
  switch (split) {
    case Split::kTrain:
      return "train";
    case Split::kValidation:
      return "validation";
    case Split::kHeldOut:
      break;
  }
  return "held_out";
}

std::vector<HarvestPrompt> MakeHarvestPrompts(const Tokenizer& tokenizer,
                                              std::span<const std::string> texts,
                                              const KvzapOptions& options, int n_sinks) {
  Check(options, n_sinks);
  std::vector<Document> documents;
  for (size_t i = 0; i < texts.size(); ++i) {
    std::vector<Token> tokens = tokenizer.Encode(texts[i]);
    if (tokens.size() >= static_cast<size_t>(options.min_tokens)) {
      documents.push_back({i, std::move(tokens)});
    }
  }
  if (documents.size() < 3) {
    Fail(ErrorCode::kInvalidArgument,
         "the corpus has {} documents of {} tokens or more, expected 3 or more: training, "
         "validation and the held-out prompts take different ones",
         documents.size(), options.min_tokens);
  }
  Random random(options.seed);
  const auto splits = Divide(std::move(documents), random);
  const size_t n_other = std::max<size_t>(1, static_cast<size_t>(options.n_prompts) / 8);
  std::vector<HarvestPrompt> prompts;
  for (const Split split : {Split::kTrain, Split::kValidation, Split::kHeldOut}) {
    const size_t n =
        split == Split::kTrain ? static_cast<size_t>(options.n_prompts) - 2 * n_other : n_other;
    for (size_t i = 0; i < n; ++i) {
      prompts.push_back(MakePrompt(tokenizer, splits[static_cast<size_t>(split)], i, n, i % 2 == 1,
                                   options, n_sinks, random));
      prompts.back().split = split;
    }
  }
  return prompts;
}

}  // namespace pith
