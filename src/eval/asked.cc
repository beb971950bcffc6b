#include "eval/asked.h"

#include <algorithm>
#include <utility>

#include "pith/batch.h"
#include "text/cut_text.h"

namespace pith {
namespace {

constexpr size_t kTogether = 8;

// A session that is answering.
struct Speaker {
  size_t plan;
  Session session;
  std::vector<Token> answer;
  bool is_done = false;
};

Token Likeliest(std::span<const float> logits) {
  return static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

void Answer(const Model& model, std::vector<Speaker>& speakers, int most, int n_threads,
            const std::function<bool(std::string_view answer)>& is_settled) {
  const Tokenizer& tokenizer = model.tokenizer();
  Batch batch(model, n_threads);
  for (int length = 1;; ++length) {
    std::vector<Session*> sessions;
    std::vector<Token> tokens;
    for (Speaker& speaker : speakers) {
      if (speaker.is_done) continue;
      const Token token = Likeliest(speaker.session.logits());
      speaker.is_done = length == most || tokenizer.IsEndOfGeneration(token);
      if (tokenizer.IsEndOfGeneration(token)) continue;
      speaker.answer.push_back(token);
      if (is_settled && is_settled(tokenizer.Decode(speaker.answer))) speaker.is_done = true;
      if (speaker.is_done) continue;
      sessions.push_back(&speaker.session);
      tokens.push_back(token);
    }
    if (sessions.empty()) return;
    batch.Next(sessions, tokens);
  }
}

// A fork of which nothing is evicted any more.
Session ForkWhole(Session& session) {
  Plan plan = session.plan();
  if (plan.tiers.empty()) {
    plan.keep = Keep();
  } else {  // the last takes what would have gone
    double& last = plan.tiers.back().share;
    last += 1 - KeepOf(plan.tiers).fraction;
    plan.keep = KeepOf(plan.tiers);
  }
  return session.Fork(plan);
}

}  // namespace

PromptFrame FrameOf(const ChatTemplate& chat) {
  const std::string mark = "pith-needle";
  const std::vector<ChatMessage> messages = {{"user", mark}};
  CutText cut = CutAt(mark, chat.Render(messages));
  return {std::move(cut.before), std::move(cut.after)};
}

AskedTrial AskAbout(const Tokenizer& tokenizer, const PromptFrame& frame,
                    const std::string& question, const std::string& lead, int answer_tokens) {
  AskedTrial trial;
  if (tokenizer.add_bos() && tokenizer.bos() >= 0) trial.opening.push_back(tokenizer.bos());
  const std::vector<Token> before = tokenizer.Encode(frame.before);
  trial.opening.insert(trial.opening.end(), before.begin(), before.end());
  std::vector<TextSegment> segments = {{question}};
  segments.insert(segments.end(), frame.after.begin(), frame.after.end());
  segments.push_back({lead});
  trial.question = tokenizer.Encode(segments);
  // A token that joins the last words to what follows them is none of the user's; one token at
  // least is read after compression.
  const std::vector<Token> words = tokenizer.Encode(question);
  const size_t most = std::min(words.size(), trial.question.size() - 1);
  const auto end = words.begin() + static_cast<std::ptrdiff_t>(most);
  trial.question_words = static_cast<int>(
      std::mismatch(words.begin(), end, trial.question.begin()).first - words.begin());
  trial.answer_tokens = answer_tokens;
  return trial;
}

int64_t TokensBesideContext(const AskedTrial& trial) {
  return static_cast<int64_t>(trial.opening.size() + trial.question.size()) + trial.answer_tokens;
}

int64_t MostThatFit(int64_t guess, const std::function<bool(int64_t n)>& fits) {
  int64_t low = 0;
  int64_t high = std::max<int64_t>(guess, 1);
  while (fits(high)) {
    low = high;
    high *= 2;
  }
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

std::vector<Answered> AskPlans(const Model& model, const AskedTrial& trial,
                               std::span<const Plan> plans, const Asking& asking,
                               const std::function<bool(std::string_view answer)>& is_settled) {
  std::vector<Answered> answers(plans.size());
  std::vector<Speaker> speakers;
  const auto finish = [&] {
    Answer(model, speakers, trial.answer_tokens, asking.session.n_threads, is_settled);
    for (const Speaker& speaker : speakers) {
      answers[speaker.plan].answer = model.tokenizer().Decode(speaker.answer);
    }
    speakers.clear();
  };
  const std::span<const Token> question(trial.question);
  const auto n_words = static_cast<size_t>(asking.aware ? trial.question_words : 0);
  std::vector<Token> text = trial.context;
  text.insert(text.end(), question.begin(),
              question.begin() + static_cast<std::ptrdiff_t>(n_words));
  ForEachPlan(model, trial.opening, text, plans, asking.compression, asking.session,
              [&](size_t index, Session& session, const ReadingStats& stats) {
                ReadOptions pinned;
                pinned.pin = true;
                session.Read(question.subspan(n_words), pinned);
                static_cast<ReadingStats&>(answers[index]) = stats;
                speakers.push_back({index, ForkWhole(session), {}, false});
                if (speakers.size() == kTogether) finish();
              });
  if (!speakers.empty()) finish();
  return answers;
}

}  // namespace pith
