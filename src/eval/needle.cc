#include "eval/needle.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/fail.h"
#include "eval/seeded_random.h"

namespace pith {
namespace {

constexpr std::array<std::string_view, 50> kAdjectives = {
    "ancient", "bitter",  "brave",   "bright",  "broken", "calm",   "careful", "clever", "cloudy",
    "cold",    "crooked", "curious", "distant", "eager",  "early",  "empty",   "famous", "fierce",
    "frozen",  "gentle",  "golden",  "green",   "hollow", "honest", "humble",  "jolly",  "lonely",
    "loud",    "lucky",   "modern",  "muddy",   "narrow", "noisy",  "patient", "pale",   "proud",
    "quiet",   "rapid",   "round",   "rusty",   "secret", "shiny",  "silver",  "sleepy", "steep",
    "sturdy",  "tired",   "velvet",  "wild",    "wooden"};
constexpr std::array<std::string_view, 50> kNouns = {
    "anchor", "apple",  "basket", "bridge",  "button", "candle", "canyon",  "carpet",  "castle",
    "circle", "cloud",  "desert", "dragon",  "engine", "falcon", "feather", "forest",  "garden",
    "hammer", "harbor", "island", "journey", "kettle", "ladder", "lantern", "lemon",   "meadow",
    "mirror", "needle", "ocean",  "orchard", "pebble", "pencil", "piano",   "pillow",  "planet",
    "rabbit", "river",  "saddle", "school",  "shadow", "spider", "teapot",  "thunder", "ticket",
    "tunnel", "valley", "violin", "window",  "winter"};

std::string_view Noun(NeedleValues values) {
  return values == NeedleValues::kNumbers ? "number" : "word";
}

std::string FirstLines(NeedleValues values) {
  return fmt::format(
      "A special magic {0} is hidden within the following text. Make sure to memorize it. I will "
      "quiz you about the {0} afterwards.\n",
      Noun(values));
}

std::string Sentence(const NeedleTrial& trial, NeedleValues values) {
  return fmt::format("One of the special magic {}s for {} is: {}.", Noun(values), trial.key,
                     trial.value);
}

std::string TwoWords(SeededRandom& random) {
  const std::string_view noun = kNouns[random.Below(kNouns.size())];
  return fmt::format("{}-{}", kAdjectives[random.Below(kAdjectives.size())], noun);
}

// `hay` with the needle at the start of the sentence nearest to the depth, or at the very end.
std::string Hide(std::string_view hay, const NeedleTrial& trial, NeedleValues values) {
  std::vector<size_t> places = SentenceStarts(hay);
  places.push_back(hay.size());
  const double wanted = trial.depth * static_cast<double>(hay.size());
  const size_t place = *std::min_element(places.begin(), places.end(), [&](size_t a, size_t b) {
    return std::abs(static_cast<double>(a) - wanted) < std::abs(static_cast<double>(b) - wanted);
  });
  std::string text = FirstLines(values);
  text += hay.substr(0, place);
  if (place == hay.size() && place > 0) text += ' ';
  text += Sentence(trial, values);
  if (place < hay.size()) text += ' ';
  text += hay.substr(place);
  return text;
}

std::string Asked(const NeedleTrial& trial, NeedleValues values) {
  return fmt::format("special magic {} for {} mentioned in the provided text", Noun(values),
                     trial.key);
}

}  // namespace

NeedleTask::NeedleTask(const Tokenizer& tokenizer, PromptFrame frame, const Haystack& haystack,
                       uint64_t seed, NeedleValues values, int n_depths)
    : tokenizer_(tokenizer),
      frame_(std::move(frame)),
      haystack_(haystack),
      seed_(seed),
      values_(values),
      n_depths_(n_depths) {
  constexpr int64_t kFewestOfHaystack = 64;
  NeedleTrial longest;
  if (values_ == NeedleValues::kNumbers) longest.value = "1000000";
  int64_t most = 0;
  for (const auto& words : {kAdjectives, kNouns}) {
    int64_t tokens = 0;
    for (std::string_view word : words) {
      tokens = std::max(tokens,
                        static_cast<int64_t>(tokenizer_.Encode(fmt::format("-{}", word)).size()));
    }
    most += tokens;
  }
  // The key stands in the needle, in the question and in the beginning of the answer.
  const int64_t n_words = values_ == NeedleValues::kNumbers ? 3 : 4;
  Ask(longest);
  longest.context = tokenizer_.Encode(FirstLines(values_) + Sentence(longest, values_));
  min_length_ = TokensBesideContext(longest) + static_cast<int64_t>(longest.context.size()) +
                n_words * most + kFewestOfHaystack;
}

void NeedleTask::Ask(NeedleTrial& trial) const {
  const std::string what = Asked(trial, values_);
  static_cast<AskedTrial&>(trial) =
      AskAbout(tokenizer_, frame_, fmt::format("\nWhat is the {}?", what),
               fmt::format(" The {} is", what), kAnswerTokens);
}

NeedleTrial NeedleTask::Draw(int index, uint64_t& first_sentence) const {
  SeededRandom random(SeededRandom(seed_).Next() ^ static_cast<uint64_t>(index));
  NeedleTrial trial;
  trial.depth = random.Unit();
  if (n_depths_ == 1) trial.depth = 0.5;
  if (n_depths_ > 1) trial.depth = static_cast<double>(index % n_depths_) / (n_depths_ - 1);
  first_sentence = random.Below(haystack_.n_sentences());
  // A haystack that happens to hold the key or the value would answer by itself.
  const auto in_haystack = [&](const std::string& words) {
    return haystack_.text().find(words) != std::string::npos;
  };
  for (int attempt = 0; attempt < 100; ++attempt) {
    trial.key = TwoWords(random);
    trial.value = values_ == NeedleValues::kNumbers
                      ? fmt::format("{}", 1000000 + random.Below(9000000))
                      : TwoWords(random);
    if (trial.key != trial.value && !in_haystack(trial.key) && !in_haystack(trial.value)) {
      return trial;
    }
  }
  Fail(ErrorCode::kInvalidArgument,
       "the haystack holds what is to be hidden in it, expected running text");
}

NeedleTrial NeedleTask::Make(int index, int64_t length) const {
  if (length < min_length_) {
    Fail(ErrorCode::kInvalidArgument,
         "{} tokens are too few to hide a needle in, expected {} or more", length, min_length_);
  }
  uint64_t first_sentence = 0;
  NeedleTrial trial = Draw(index, first_sentence);
  Ask(trial);
  const int64_t room = length - TokensBesideContext(trial);

  // Tries a cut of the haystack; what fits becomes the trial's context.
  const auto fits = [&](int64_t bytes) {
    const std::string hay = haystack_.From(first_sentence, static_cast<size_t>(bytes) + 1);
    std::string text = Hide(
        std::string_view(hay).substr(0, WordCut(hay, static_cast<size_t>(bytes))), trial, values_);
    std::vector<Token> tokens = tokenizer_.Encode(text);
    if (static_cast<int64_t>(tokens.size()) > room) return false;
    trial.text = std::move(text);
    trial.context = std::move(tokens);
    return true;
  };
  fits(MostThatFit(8 * room, fits));
  return trial;
}

}  // namespace pith
