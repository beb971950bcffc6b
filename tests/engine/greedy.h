// What tests of sessions that go on in several ways share.
#pragma once

#include <algorithm>
#include <vector>

#include "pith/session.h"

namespace pith::testing {

inline SessionOptions OneThread() { return {.n_batch = 128, .n_threads = 1}; }

// Greedy tokens that follow; the session reads them.
inline std::vector<Token> Continue(Session& session, int n) {
  std::vector<Token> out;
  for (int i = 0; i < n; ++i) {
    const auto logits = session.logits();
    out.push_back(
        static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    session.Next(out.back());
  }
  return out;
}

inline std::vector<float> Logits(const Session& session) {
  return {session.logits().begin(), session.logits().end()};
}

}  // namespace pith::testing
