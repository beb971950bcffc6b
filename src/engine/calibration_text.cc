#include "engine/calibration_text.h"

#include "base/fail.h"

namespace pith {

std::vector<std::vector<Token>> CutSequences(const Model& model, std::span<const std::string> texts,
                                             int n_sequences, int sequence_tokens) {
  if (n_sequences < 1) {
    Fail(ErrorCode::kInvalidArgument, "{} sequences, expected at least 1", n_sequences);
  }
  const int n_ctx = model.info().n_ctx_train;
  if (sequence_tokens < 2 || sequence_tokens > n_ctx) {
    Fail(ErrorCode::kInvalidArgument,
         "sequences of {} tokens, expected 2 to the model's context of {}", sequence_tokens, n_ctx);
  }
  const Tokenizer& tokenizer = model.tokenizer();
  std::vector<Token> corpus;
  for (const std::string& text : texts) {
    const std::vector<Token> tokens = tokenizer.Encode(text);
    corpus.insert(corpus.end(), tokens.begin(), tokens.end());
  }
  const size_t n_bos = tokenizer.add_bos() && tokenizer.bos() >= 0 ? 1 : 0;
  const size_t length = static_cast<size_t>(sequence_tokens) - n_bos;
  const size_t n = static_cast<size_t>(n_sequences);
  if (corpus.size() < n * length) {
    Fail(ErrorCode::kInvalidArgument,
         "the corpus has {} tokens, but {} sequences of {} take {}; add texts or ask for fewer",
         corpus.size(), n, length, n * length);
  }
  std::vector<std::vector<Token>> sequences(n);
  for (size_t i = 0; i < n; ++i) {
    const size_t begin = n == 1 ? 0 : (corpus.size() - length) * i / (n - 1);
    if (n_bos) sequences[i].push_back(tokenizer.bos());
    sequences[i].insert(sequences[i].end(), corpus.begin() + static_cast<int64_t>(begin),
                        corpus.begin() + static_cast<int64_t>(begin + length));
  }
  return sequences;
}

}  // namespace pith
