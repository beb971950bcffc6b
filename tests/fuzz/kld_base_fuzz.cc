// The reader of KLD bases, on headers and pieces whose checksums are right.
#include <xxhash.h>

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "eval/kld_base.h"
#include "fuzz/seeds.h"
#include "pith/error.h"
#include "tools/temp_folder.h"

namespace {

constexpr size_t kHeader = 48;

template <typename T>
T Get(const std::string& bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

void Seal(std::string& bytes, size_t begin, size_t end) {
  const uint64_t xxh3 = XXH3_64bits(bytes.data() + begin, end - begin);
  std::memcpy(bytes.data() + end, &xxh3, sizeof(xxh3));
}

// The file that an input stands for: one byte says whether its checksums are made right.
std::string File(std::string bytes) {
  const bool sealed = !bytes.empty() && (bytes[0] & 1) == 0;
  if (!bytes.empty()) bytes.erase(0, 1);
  if (!sealed || bytes.size() < kHeader) return bytes;
  Seal(bytes, 0, kHeader - 8);
  const uint64_t rows =
      uint64_t{Get<uint32_t>(bytes, 16)} * (4 + 2 * uint64_t{Get<uint32_t>(bytes, 12)});
  for (size_t at = kHeader; at + 8 <= bytes.size();) {
    const uint64_t end =
        at + 8 + uint64_t{Get<uint32_t>(bytes, at)} * 4 + Get<uint32_t>(bytes, at + 4) + rows;
    if (end + 8 > bytes.size()) break;
    Seal(bytes, at, end);
    at = end + 8;
  }
  return bytes;
}

std::string Seed(int n_vocab, int n_next, int n_pieces) {
  pith::ModelInfo info;
  info.fingerprint = "0123456789abcdef";
  info.n_vocab = n_vocab;
  const pith::testing::TempFolder folder;
  pith::KldBaseWriter writer(folder / "seed", info, n_next, n_pieces);
  for (int trial = 0; trial < n_pieces; ++trial) {
    pith::TextPiece piece;
    piece.tokens = {1, 2, 3};
    pith::FullPredictions full;
    full.outcome.nll.assign(n_next, 0.5);
    full.outcome.divergence.assign(n_next, 0);
    full.outcome.same_top.assign(n_next, 1);
    full.outcome.entries_per_head = {{3}};
    full.log_probs = [](size_t row, std::span<double> log_probs) {
      for (size_t i = 0; i < log_probs.size(); ++i) {
        log_probs[i] = -static_cast<double>(i + row);
      }
    };
    writer.Add(2, trial, piece, full);
  }
  writer.Commit();
  return std::string(1, '\0') + pith::testing::ReadWhole(folder / "seed");
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  pith::testing::WriteSeeds(*argc, *argv, {Seed(1, 1, 0), Seed(3, 2, 1), Seed(5, 1, 2)});
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string file = File({reinterpret_cast<const char*>(data), size});
  try {
    const auto base = pith::KldBase::Parse(pith::testing::AsBytes(file), "fuzz", {});
    std::vector<double> log_probs(base.n_vocab());
    for (const pith::FullPredictions& full : base.All()) {
      for (size_t row = 0; row < full.outcome.nll.size(); ++row) full.log_probs(row, log_probs);
    }
  } catch (const pith::Error&) {
  }
  return 0;
}
