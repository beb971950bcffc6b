// What the full cache predicts of pieces of text, in a file that later measurements compare with
// (docs/formats.md, "KLD base").
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "eval/kld.h"
#include "pith/model.h"

namespace pith {

inline constexpr uint32_t kKldBaseVersion = 1;

// Written piece by piece; the file is there, whole, after Commit. Throws Error(kIo).
class KldBaseWriter {
 public:
  KldBaseWriter(const std::filesystem::path& file, const ModelInfo& model, int n_next,
                int n_pieces);
  // Called n_pieces times. `length` and `trial` are the piece's name.
  void Add(int64_t length, int trial, const TextPiece& piece, const FullPredictions& full);
  void Commit() { file_.Commit(); }

 private:
  AtomicFile file_;
  size_t n_vocab_;
  size_t n_next_;
};

class KldBase {
 public:
  // Maps the file and verifies every byte. Throws Error(kNotFound, kIo), kFormat for a damaged or
  // foreign file, kMismatch for one of another version or model.
  static KldBase Open(const std::filesystem::path& file, const ModelInfo& model);
  // The same of bytes that outlive the result; a model without a fingerprint fits all. `name` is
  // for messages.
  static KldBase Parse(std::span<const std::byte> bytes, std::string name, const ModelInfo& model);

  // Valid as long as this is. Throws Error(kMismatch) unless the piece is there, with these tokens
  // and so many predictions.
  FullPredictions Find(int64_t length, int trial, const TextPiece& piece, int n_next) const;

  // Of all pieces, to read them without knowing their tokens.
  std::vector<FullPredictions> All() const;
  size_t n_vocab() const { return n_vocab_; }

 private:
  struct Piece {
    KldOutcome outcome;
    std::span<const std::byte> tokens;  // i32, unaligned
    std::span<const std::byte> rows;
  };
  FullPredictions PredictionsOf(const Piece& piece) const;

  MappedFile mapped_;
  std::string name_;
  size_t n_vocab_ = 0;
  size_t n_next_ = 0;
  std::map<std::pair<int64_t, int>, Piece> pieces_;  // by length and trial
};

}  // namespace pith
