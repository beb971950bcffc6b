#include "pith/batch.h"

#include <algorithm>
#include <vector>

#include "base/fail.h"
#include "engine/clock.h"
#include "engine/runner.h"
#include "engine/session_impl.h"

namespace pith {

class Batch::Impl {
 public:
  Impl(const Model& model, int n_threads) : model_(model), runner_(model, ThreadCount(n_threads)) {}

  void Next(std::span<Session* const> sessions, std::span<const Token> tokens);

 private:
  // Makes them `sequences_`, or throws.
  void Take(std::span<Session* const> sessions, std::span<const Token> tokens);

  Model model_;
  Runner runner_;
  std::vector<Runner::Sequence> sequences_;
};

void Batch::Impl::Take(std::span<Session* const> sessions, std::span<const Token> tokens) {
  if (sessions.empty() || sessions.size() != tokens.size()) {
    Fail(ErrorCode::kInvalidArgument,
         "a batch of {} sessions and {} tokens, expected one token for each of one session or more",
         sessions.size(), tokens.size());
  }
  sequences_.clear();
  for (Session* session : sessions) {
    Session::Impl& impl = session->impl();
    const auto is_taken = [&](const Runner::Sequence& other) { return other.session == &impl; };
    if (std::any_of(sequences_.begin(), sequences_.end(), is_taken)) {
      Fail(ErrorCode::kInvalidArgument, "session {} of a batch is session {} again",
           sequences_.size(),
           std::find_if(sequences_.begin(), sequences_.end(), is_taken) - sequences_.begin());
    }
    if (&impl.model.impl() != &model_.impl()) {
      Fail(ErrorCode::kInvalidArgument,
           "session {} of a batch has another model, {}, than the batch, {}", sequences_.size(),
           impl.model.info().name, model_.info().name);
    }
    sequences_.push_back({&impl, impl.n_read});
  }
  for (size_t i = 0; i < sessions.size(); ++i) sequences_[i].session->BeginNext(tokens[i]);
}

void Batch::Impl::Next(std::span<Session* const> sessions, std::span<const Token> tokens) {
  const double begin = Now();
  Take(sessions, tokens);
  const std::span<const float> logits = runner_.Run(sequences_, tokens, Output::kLogits).result();
  const size_t n_vocab = logits.size() / sessions.size();
  for (size_t i = 0; i < sessions.size(); ++i) {
    sequences_[i].session->EndNext(tokens[i], logits.subspan(i * n_vocab, n_vocab));
  }
  const double share = (Now() - begin) / static_cast<double>(sessions.size());
  for (const Runner::Sequence& sequence : sequences_) {
    sequence.session->times.next_s += share;
    sequence.session->times.next_tokens += 1;
  }
}

Batch::Batch(const Model& model, int n_threads) : impl_(std::make_unique<Impl>(model, n_threads)) {}
Batch::~Batch() = default;
Batch::Batch(Batch&&) noexcept = default;
Batch& Batch::operator=(Batch&&) noexcept = default;

void Batch::Next(std::span<Session* const> sessions, std::span<const Token> tokens) {
  impl_->Next(sessions, tokens);
}

}  // namespace pith
