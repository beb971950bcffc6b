#include "eval/needle.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/fail.h"
#include "eval/seeded_random.h"
#include "text/cut_text.h"

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

std::vector<TextSegment> Question(const NeedleTrial& trial, NeedleValues values,
                                  const PromptFrame& frame) {
  const std::string what = fmt::format("special magic {} for {} mentioned in the provided text",
                                       Noun(values), trial.key);
  std::vector<TextSegment> question = {{fmt::format("\nWhat is the {}?", what)}};
  question.insert(question.end(), frame.after.begin(), frame.after.end());
  question.push_back({fmt::format(" The {} is", what)});
  return question;
}

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

}  // namespace

PromptFrame FrameOf(const ChatTemplate& chat) {
  const std::string mark = "pith-needle";
  const std::vector<ChatMessage> messages = {{"user", mark}};
  CutText cut = CutAt(mark, chat.Render(messages));
  return {std::move(cut.before), std::move(cut.after)};
}

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
  longest.question = tokenizer_.Encode(Question(longest, values_, frame_));
  longest.context = tokenizer_.Encode(FirstLines(values_) + Sentence(longest, values_));
  min_length_ = FrameTokens(longest) + static_cast<int64_t>(longest.context.size()) +
                n_words * most + kFewestOfHaystack;
}

// All but the context.
int64_t NeedleTask::FrameTokens(const NeedleTrial& trial) const {
  const bool bos = tokenizer_.add_bos() && tokenizer_.bos() >= 0;
  return (bos ? 1 : 0) + static_cast<int64_t>(tokenizer_.Encode(frame_.before).size()) +
         static_cast<int64_t>(trial.question.size()) + kAnswerTokens;
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
  if (tokenizer_.add_bos() && tokenizer_.bos() >= 0) trial.opening.push_back(tokenizer_.bos());
  const std::vector<Token> before = tokenizer_.Encode(frame_.before);
  trial.opening.insert(trial.opening.end(), before.begin(), before.end());
  trial.question = tokenizer_.Encode(Question(trial, values_, frame_));
  const auto room = static_cast<size_t>(length - FrameTokens(trial));

  // Tries a cut of the haystack; what fits becomes the trial's context.
  const auto fits = [&](std::string_view hay) {
    std::string text = Hide(hay, trial, values_);
    std::vector<Token> tokens = tokenizer_.Encode(text);
    if (tokens.size() > room) return false;
    trial.text = std::move(text);
    trial.context = std::move(tokens);
    return true;
  };
  fits("");
  size_t low = 0;  // bytes that fit
  size_t high = 8 * room;
  std::string hay = haystack_.From(first_sentence, high);
  while (fits(std::string_view(hay).substr(0, WordCut(hay, high)))) {
    low = high;
    high *= 2;
    hay = haystack_.From(first_sentence, high);
  }
  for (size_t cut_before = 0; high - low > 1;) {
    const size_t middle = low + (high - low) / 2;
    const size_t cut = WordCut(hay, middle);
    if (cut == cut_before || fits(std::string_view(hay).substr(0, cut))) {
      low = middle;
      cut_before = cut;
    } else {
      high = middle;
    }
  }
  return trial;
}

bool AnswerNames(std::string_view answer, std::string_view value) {
  return std::search(answer.begin(), answer.end(), value.begin(), value.end(),
                     [](char a, char b) { return Lower(a) == Lower(b); }) != answer.end();
}

}  // namespace pith
