#include "eval/kld_base.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string_view>
#include <utility>

#include "base/fail.h"
#include "base/printable.h"
#include "eval/trial_log.h"

namespace pith {
namespace {

static_assert(std::endian::native == std::endian::little, "bases are read in place");

constexpr std::array<char, 8> kMagic = {'P', 'I', 'T', 'H', 'B', 'A', 'S', 'E'};
constexpr size_t kFingerprintBytes = 16;
constexpr uint32_t kMostVocabulary = uint32_t{1} << 24;
constexpr uint32_t kMostNext = uint32_t{1} << 20;
constexpr double kSteps = 65535;

struct Header {
  std::array<char, 8> magic = kMagic;
  uint32_t version = kKldBaseVersion;
  uint32_t n_vocab = 0;
  uint32_t n_next = 0;
  uint32_t n_pieces = 0;
  std::array<char, kFingerprintBytes> fingerprint = {};
  uint64_t xxh3 = 0;  // of all before
};
static_assert(sizeof(Header) == 48);

struct PieceHeader {
  uint32_t n_tokens = 0;
  uint32_t n_trial = 0;  // bytes
};
static_assert(sizeof(PieceHeader) == 8);

uint64_t Hash(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

size_t RowBytes(size_t n_vocab) { return sizeof(float) + n_vocab * sizeof(uint16_t); }

void Append(std::vector<std::byte>& bytes, std::span<const std::byte> part) {
  bytes.insert(bytes.end(), part.begin(), part.end());
}

// A range, and values v that stand for -range (v / 65535)^2 below the likeliest token: the finer,
// the likelier.
void AppendRow(std::vector<std::byte>& bytes, std::span<const double> log_probs) {
  const double top = *std::max_element(log_probs.begin(), log_probs.end());
  double least = top;
  for (double value : log_probs) {
    if (std::isfinite(value)) least = std::min(least, value);
  }
  const auto range = static_cast<float>(top - least);
  Append(bytes, std::as_bytes(std::span(&range, 1)));
  std::vector<uint16_t> values;
  for (double value : log_probs) {
    const double share = range > 0 ? std::clamp((top - value) / range, 0.0, 1.0) : 0;
    values.push_back(static_cast<uint16_t>(std::lround(kSteps * std::sqrt(share))));
  }
  Append(bytes, std::as_bytes(std::span(values)));
}

// Takes what a file holds from its front.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& name) : left_(bytes), name_(name) {}

  std::span<const std::byte> Take(uint64_t n) {
    if (n > left_.size()) {
      Fail(ErrorCode::kFormat, "{}: ends {} bytes too early, expected a whole KLD base", name_,
           n - left_.size());
    }
    const auto taken = left_.first(static_cast<size_t>(n));
    left_ = left_.subspan(static_cast<size_t>(n));
    return taken;
  }
  template <typename T>
  T Take() {
    T value;
    std::memcpy(&value, Take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::span<const std::byte> left() const { return left_; }

 private:
  std::span<const std::byte> left_;
  const std::string& name_;
};

Header TakeHeader(Cursor& cursor, const std::string& name, const ModelInfo& model) {
  const auto bytes = cursor.left();
  if (bytes.size() < kMagic.size() ||
      std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    Fail(ErrorCode::kFormat, "{}: is not a KLD base, expected a file made by --save-base", name);
  }
  const auto header = cursor.Take<Header>();
  if (header.version != kKldBaseVersion) {
    Fail(ErrorCode::kMismatch, "{}: is a KLD base of version {}, expected {}", name, header.version,
         kKldBaseVersion);
  }
  if (header.xxh3 != Hash(bytes.first(sizeof(Header) - sizeof(uint64_t))) || header.n_vocab < 1 ||
      header.n_vocab > kMostVocabulary || header.n_next < 1 || header.n_next > kMostNext) {
    Fail(ErrorCode::kFormat, "{}: its header is damaged", name);
  }
  const std::string_view fingerprint(header.fingerprint.data(), header.fingerprint.size());
  if (!model.fingerprint.empty() && (fingerprint != model.fingerprint ||
                                     header.n_vocab != static_cast<uint32_t>(model.n_vocab))) {
    Fail(ErrorCode::kMismatch,
         "{}: is the KLD base of a model with the fingerprint {}, expected {}", name,
         Printable(fingerprint), model.fingerprint);
  }
  return header;
}

}  // namespace

KldBaseWriter::KldBaseWriter(const std::filesystem::path& file, const ModelInfo& model, int n_next,
                             int n_pieces)
    : file_(file),
      n_vocab_(static_cast<size_t>(model.n_vocab)),
      n_next_(static_cast<size_t>(n_next)) {
  Header header;
  header.n_vocab = static_cast<uint32_t>(model.n_vocab);
  header.n_next = static_cast<uint32_t>(n_next);
  header.n_pieces = static_cast<uint32_t>(n_pieces);
  std::copy_n(model.fingerprint.begin(), std::min(model.fingerprint.size(), kFingerprintBytes),
              header.fingerprint.begin());
  const auto bytes = std::as_bytes(std::span(&header, 1));
  header.xxh3 = Hash(bytes.first(sizeof(Header) - sizeof(uint64_t)));
  file_.Write(bytes);
}

void KldBaseWriter::Add(int64_t length, int trial, const TextPiece& piece,
                        const FullPredictions& full) {
  TrialRecord<KldOutcome> record;
  record.length = length;
  record.trial = trial;
  record.keep = Keep().ToString();
  record.outcome = full.outcome;
  const std::string text = TrialLine(record);
  const PieceHeader header = {static_cast<uint32_t>(piece.tokens.size()),
                              static_cast<uint32_t>(text.size())};
  std::vector<std::byte> bytes;
  bytes.reserve(n_next_ * RowBytes(n_vocab_) + text.size() + 4 * piece.tokens.size() + 64);
  Append(bytes, std::as_bytes(std::span(&header, 1)));
  Append(bytes, std::as_bytes(std::span(text)));
  Append(bytes, std::as_bytes(std::span(piece.tokens)));
  std::vector<double> log_probs(n_vocab_);
  for (size_t row = 0; row < n_next_; ++row) {
    full.log_probs(row, log_probs);
    AppendRow(bytes, log_probs);
  }
  const uint64_t xxh3 = Hash(bytes);
  Append(bytes, std::as_bytes(std::span(&xxh3, 1)));
  file_.Write(bytes);
}

KldBase KldBase::Open(const std::filesystem::path& file, const ModelInfo& model) {
  MappedFile mapped(file);
  KldBase base = Parse(mapped.bytes(), file.string(), model);
  mapped.Release(mapped.bytes());
  base.mapped_ = std::move(mapped);
  return base;
}

KldBase KldBase::Parse(std::span<const std::byte> bytes, std::string name, const ModelInfo& model) {
  KldBase base;
  base.name_ = std::move(name);
  Cursor cursor(bytes, base.name_);
  const Header header = TakeHeader(cursor, base.name_, model);
  base.n_vocab_ = header.n_vocab;
  base.n_next_ = header.n_next;
  for (uint32_t i = 0; i < header.n_pieces; ++i) {
    const auto from_here = cursor.left();
    const auto damaged = [&](const char* what) {
      Fail(ErrorCode::kFormat, "{}: {} of piece {} of {} is damaged", base.name_, what, i + 1,
           header.n_pieces);
    };
    const auto head = cursor.Take<PieceHeader>();
    const auto text = cursor.Take(head.n_trial);
    Piece piece;
    piece.tokens = cursor.Take(uint64_t{head.n_tokens} * sizeof(Token));
    piece.rows = cursor.Take(uint64_t{base.n_next_} * RowBytes(base.n_vocab_));
    const size_t n_hashed = from_here.size() - cursor.left().size();
    if (cursor.Take<uint64_t>() != Hash(from_here.first(n_hashed))) damaged("a part");
    TrialRecord<KldOutcome> record;
    try {
      record =
          ParseTrialLine<KldOutcome>({reinterpret_cast<const char*>(text.data()), text.size()});
    } catch (const Error&) {
      damaged("the record");
    }
    piece.outcome = std::move(record.outcome);
    if (piece.outcome.nll.size() != base.n_next_ ||
        piece.outcome.divergence.size() != base.n_next_ ||
        piece.outcome.same_top.size() != base.n_next_) {
      damaged("the record");
    }
    for (size_t row = 0; row < base.n_next_; ++row) {
      float range;
      std::memcpy(&range, piece.rows.data() + row * RowBytes(base.n_vocab_), sizeof(range));
      if (!(std::isfinite(range) && range >= 0)) {
        damaged("a prediction");
      }
    }
    base.pieces_[{record.length, record.trial}] = std::move(piece);
  }
  if (!cursor.left().empty()) {
    Fail(ErrorCode::kFormat, "{}: has {} bytes too many, expected a whole KLD base", base.name_,
         cursor.left().size());
  }
  return base;
}

FullPredictions KldBase::PredictionsOf(const Piece& piece) const {
  FullPredictions full;
  full.outcome = piece.outcome;
  full.log_probs = [rows = piece.rows, n_vocab = n_vocab_](size_t row,
                                                           std::span<double> log_probs) {
    const std::byte* at = rows.data() + row * RowBytes(n_vocab);
    float range;
    std::memcpy(&range, at, sizeof(range));
    at += sizeof(range);
    double sum = 0;
    for (size_t i = 0; i < n_vocab; ++i) {
      uint16_t value;
      std::memcpy(&value, at + i * sizeof(value), sizeof(value));
      const double share = value / kSteps;
      log_probs[i] = -range * share * share;
      sum += std::exp(log_probs[i]);
    }
    // Rounded they would not quite be a distribution, from which every divergence would suffer.
    const double log_sum = std::log(sum);
    for (double& log_prob : log_probs) log_prob -= log_sum;
  };
  return full;
}

FullPredictions KldBase::Find(int64_t length, int trial, const TextPiece& piece, int n_next) const {
  const auto found = pieces_.find({length, trial});
  const auto tokens = std::as_bytes(std::span(piece.tokens));
  if (found == pieces_.end() || n_next_ != static_cast<size_t>(n_next) ||
      !std::equal(tokens.begin(), tokens.end(), found->second.tokens.begin(),
                  found->second.tokens.end())) {
    Fail(ErrorCode::kMismatch,
         "{}: does not hold piece {} of {} tokens and {} predictions, expected a base saved with "
         "the same --text, --length, --next, --seed and as many --trials",
         name_, trial, length, n_next);
  }
  return PredictionsOf(found->second);
}

std::vector<FullPredictions> KldBase::All() const {
  std::vector<FullPredictions> all;
  for (const auto& [name, piece] : pieces_) all.push_back(PredictionsOf(piece));
  return all;
}

}  // namespace pith
