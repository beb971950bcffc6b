#include "eval/needle.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/fail.h"
#include "text/cut_text.h"

namespace pith {
namespace {

constexpr char kFirstLines[] =
    "A special magic number is hidden within the following text. Make sure to memorize it. I will "
    "quiz you about the number afterwards.\n";

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

// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): the distributions of the standard library may
// differ from one to the next.
class Random {
 public:
  explicit Random(uint64_t state) : state_(state) {}

  uint64_t Next() {
    state_ += 0x9e3779b97f4a7c15;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  uint64_t Below(uint64_t n) { return Next() % n; }
  double Unit() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

 private:
  uint64_t state_;
};

std::string Sentence(const NeedleTrial& trial) {
  return fmt::format("One of the special magic numbers for {} is: {}.", trial.key, trial.value);
}

// `hay` with the needle at the start of the sentence nearest to the depth, or at the very end.
std::string Hide(std::string_view hay, const NeedleTrial& trial) {
  std::vector<size_t> places = SentenceStarts(hay);
  places.push_back(hay.size());
  const double wanted = trial.depth * static_cast<double>(hay.size());
  const size_t place = *std::min_element(places.begin(), places.end(), [&](size_t a, size_t b) {
    return std::abs(static_cast<double>(a) - wanted) < std::abs(static_cast<double>(b) - wanted);
  });
  std::string text = kFirstLines;
  text += hay.substr(0, place);
  if (place == hay.size() && place > 0) text += ' ';
  text += Sentence(trial);
  if (place < hay.size()) text += ' ';
  text += hay.substr(place);
  return text;
}

std::vector<TextSegment> Question(const NeedleTrial& trial, const PromptFrame& frame) {
  std::vector<TextSegment> question = {{fmt::format(
      "\nWhat is the special magic number for {} mentioned in the provided text?", trial.key)}};
  question.insert(question.end(), frame.after.begin(), frame.after.end());
  question.push_back({fmt::format(
      " The special magic number for {} mentioned in the provided text is", trial.key)});
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
                       uint64_t seed)
    : tokenizer_(tokenizer), frame_(std::move(frame)), haystack_(haystack), seed_(seed) {
  constexpr int64_t kFewestOfHaystack = 64;
  NeedleTrial longest;
  longest.value = "1000000";
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
  longest.question = tokenizer_.Encode(Question(longest, frame_));
  longest.context = tokenizer_.Encode(kFirstLines + Sentence(longest));
  min_length_ = FrameTokens(longest) + static_cast<int64_t>(longest.context.size()) + 3 * most +
                kFewestOfHaystack;
}

// All but the context.
int64_t NeedleTask::FrameTokens(const NeedleTrial& trial) const {
  const bool bos = tokenizer_.add_bos() && tokenizer_.bos() >= 0;
  return (bos ? 1 : 0) + static_cast<int64_t>(tokenizer_.Encode(frame_.before).size()) +
         static_cast<int64_t>(trial.question.size()) + kAnswerTokens;
}

NeedleTrial NeedleTask::Draw(int index, uint64_t& first_sentence) const {
  Random random(Random(seed_).Next() ^ static_cast<uint64_t>(index));
  NeedleTrial trial;
  trial.depth = random.Unit();
  first_sentence = random.Below(haystack_.n_sentences());
  // A haystack that happens to hold the key or the value would answer by itself.
  const auto in_haystack = [&](const std::string& words) {
    return haystack_.text().find(words) != std::string::npos;
  };
  for (int attempt = 0; attempt < 100; ++attempt) {
    trial.key = fmt::format("{}-{}", kAdjectives[random.Below(kAdjectives.size())],
                            kNouns[random.Below(kNouns.size())]);
    trial.value = fmt::format("{}", 1000000 + random.Below(9000000));
    if (!in_haystack(trial.key) && !in_haystack(trial.value)) return trial;
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
  trial.question = tokenizer_.Encode(Question(trial, frame_));
  const auto room = static_cast<size_t>(length - FrameTokens(trial));

  // Tries a cut of the haystack; what fits becomes the trial's context.
  const auto fits = [&](std::string_view hay) {
    std::string text = Hide(hay, trial);
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
