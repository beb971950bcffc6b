// Several sessions of one model that decode together.
#pragma once

#include <memory>
#include <span>

#include "pith/session.h"

namespace pith {

// Reads one token in each of several sessions in one pass: the weights are read once for all, and
// every session's attention reads its own cache. Which sessions take part may change from call to
// call; they may differ in plan and length. Between calls they can be used as ever.
class Batch {
 public:
  // n_threads 0: one per core. Throws Error(kInvalidArgument) for a number that makes no sense.
  explicit Batch(const Model& model, int n_threads = 0);
  ~Batch();
  Batch(Batch&&) noexcept;
  Batch& operator=(Batch&&) noexcept;

  // Like sessions[i]->Next(tokens[i]) for all i; each one's logits() are then those after its
  // token. Throws Error(kInvalidArgument) where there are none, one stands twice, is of another
  // model, is full, or a token is out of range, kMemoryLimit or kCancelled (by Cancel() of any of
  // them): then none of them has read anything. Each one's TimeStats count one token of Next and an
  // equal share of its seconds. Rounding of quantised products depends on how many are multiplied.
  void Next(std::span<Session* const> sessions, std::span<const Token> tokens);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pith
