#include "text/byte_level_bpe.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/fail.h"
#include "base/printable.h"
#include "text/utf8.h"

namespace pith {
namespace {

// GPT-2 writes bytes as visible characters: printable Latin-1 stands for itself, the other 68 bytes
// are the characters from U+0100 on, in order.
bool IsVisible(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr uint32_t kFirstInvisible = 0x100;
constexpr size_t kMapped = kFirstInvisible + 68;

std::array<int16_t, kMapped> MakeBytesOfCharacters() {
  std::array<int16_t, kMapped> bytes;
  bytes.fill(-1);
  uint32_t next = kFirstInvisible;
  for (int byte = 0; byte < 256; ++byte) {
    bytes[IsVisible(byte) ? static_cast<uint32_t>(byte) : next++] = static_cast<int16_t>(byte);
  }
  return bytes;
}

// Bytes of a token's text. Characters that stand for no byte are kept, and `whole` becomes false.
std::string Unmap(std::string_view text, bool& whole) {
  static const std::array<int16_t, kMapped> bytes = MakeBytesOfCharacters();
  std::string out;
  whole = true;
  while (!text.empty()) {
    const size_t length = NextUtf8(text).length;
    const auto lead = static_cast<uint8_t>(text[0]);
    uint32_t character = lead;
    if (length == 2) character = (lead & 0x1Fu) << 6 | (static_cast<uint8_t>(text[1]) & 0x3Fu);
    const bool is_short = lead < 0x80 || (length == 2 && lead < 0xE0);
    if (is_short && character < kMapped && bytes[character] >= 0) {
      out.push_back(static_cast<char>(bytes[character]));
    } else {
      out.append(text.substr(0, length));
      whole = false;
    }
    text.remove_prefix(length);
  }
  return out;
}

constexpr size_t kCachedWord = 32;     // bytes of the longest word that is remembered
constexpr size_t kCachedWords = 8192;  // words remembered during one call

}  // namespace

// What merging needs, reused from word to word.
struct ByteLevelBpe::Workspace {
  struct Node {
    int32_t symbol;  // -1: merged into the one before
    int32_t previous;
    int32_t next;  // -1: none
  };
  struct Candidate {  // a pair that could merge; stale once one of its symbols has changed
    int32_t rank;
    int32_t left;  // node
    int32_t left_symbol;
    int32_t right_symbol;
    int32_t merged;
    // Lowest rank first, then the leftmost: std heaps keep the greatest in front.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  struct Span {
    size_t begin;
    size_t count;
  };

  std::vector<Node> nodes;
  std::vector<Candidate> heap;
  std::unordered_map<std::string_view, Span> cache;  // word to where its tokens are in the output
};

ByteLevelBpe::ByteLevelBpe(Vocabulary vocabulary_in)
    : VocabularyTokenizer(std::move(vocabulary_in)), pretokenizer_(vocabulary().pre) {
  for (Token id = 0; id < n_vocab(); ++id) {
    const std::string& text = vocabulary().texts[id];
    const TokenType type = vocabulary().types[id];
    bool whole = true;
    const std::string bytes = Unmap(text, whole);
    if (type == TokenType::kByte) {
      const int byte = ByteOfName(text);
      if (byte < 0) {
        Fail(ErrorCode::kFormat, "byte token {} is named '{}', expected a name like '<0x0A>'", id,
             Printable(text));
      }
      SetPiece(id, std::string(1, static_cast<char>(byte)));
    } else {
      SetPiece(id, type == TokenType::kUserDefined ? text : bytes);
    }
    // Text never becomes a control, unknown or byte token by merging.
    const bool merges = !IsSpecial(id) && type != TokenType::kByte;
    if (whole && merges && !bytes.empty()) symbols_[bytes] = id;
  }
  ReadMerges();
  for (int byte = 0; byte < 256; ++byte) {
    const std::string bytes(1, static_cast<char>(byte));
    const bool is_token = symbols_.contains(bytes) && symbols_[bytes] < n_vocab();
    if (!is_token && (byte == '\n' || (byte >= 0x20 && byte <= 0x7E))) {
      Fail(ErrorCode::kFormat, "the byte-level vocabulary has no token for the byte 0x{:02X}",
           byte);
    }
    has_all_bytes_ = has_all_bytes_ && is_token;
    byte_symbols_[byte] = SymbolOf(bytes);
  }
}

int32_t ByteLevelBpe::SymbolOf(std::string bytes) {
  const auto next = static_cast<int32_t>(n_vocab() + extra_symbols_.size());
  const auto [place, is_new] = symbols_.try_emplace(bytes, next);
  if (is_new) extra_symbols_.push_back(std::move(bytes));
  return place->second;
}

void ByteLevelBpe::ReadMerges() {
  const std::vector<std::string>& merges = vocabulary().merges;
  if (merges.size() > size_t{std::numeric_limits<int32_t>::max() / 8}) {
    Fail(ErrorCode::kFormat, "a vocabulary with {} merges cannot be used", merges.size());
  }
  merges_.Reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string_view merge = merges[i];
    const size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos || space + 1 == merge.size()) {
      Fail(ErrorCode::kFormat, "merge {} is '{}', expected two symbols with a space between", i,
           Printable(merge));
    }
    bool left_whole = true;
    bool right_whole = true;
    std::string left = Unmap(merge.substr(0, space), left_whole);
    std::string right = Unmap(merge.substr(space + 1), right_whole);
    if (!left_whole || !right_whole) continue;  // no text has such symbols
    const int32_t merged = SymbolOf(left + right);
    const int32_t left_symbol = SymbolOf(std::move(left));
    merges_.Add(left_symbol, SymbolOf(std::move(right)), {static_cast<int32_t>(i), merged});
  }
}

// Bytes that can be neither written nor part of a character become U+FFFD, so that text with them
// still shows that something was there.
std::string ByteLevelBpe::ReplaceUnknownBytes(std::string_view text) const {
  std::string out;
  while (!text.empty()) {
    const size_t valid = ValidUtf8Prefix(text);
    out.append(text.substr(0, valid));
    text.remove_prefix(valid);
    if (text.empty()) break;
    const bool is_token = byte_symbols_[static_cast<uint8_t>(text[0])] < n_vocab();
    out.append(is_token ? text.substr(0, 1) : kReplacementCharacter);
    text.remove_prefix(1);
  }
  return out;
}

void ByteLevelBpe::EncodeText(std::string_view text, bool /*after_special*/,
                              std::vector<Token>& out) const {
  std::string replaced;
  if (!has_all_bytes_ && ValidUtf8Prefix(text) != text.size()) {
    replaced = ReplaceUnknownBytes(text);
    text = replaced;
  }
  Workspace work;
  for (std::string_view word : pretokenizer_.Split(text)) {
    const size_t begin = out.size();
    if (word.size() == 1) {
      Emit(byte_symbols_[static_cast<uint8_t>(word[0])], out);
      continue;
    }
    if (word.size() > kCachedWord) {
      EncodeWord(word, work, out);
      continue;
    }
    const auto known = work.cache.find(word);
    if (known != work.cache.end()) {
      out.resize(begin + known->second.count);
      std::copy_n(out.begin() + static_cast<std::ptrdiff_t>(known->second.begin),
                  known->second.count, out.begin() + static_cast<std::ptrdiff_t>(begin));
      continue;
    }
    EncodeWord(word, work, out);
    if (work.cache.size() < kCachedWords) work.cache[word] = {begin, out.size() - begin};
  }
}

void ByteLevelBpe::EncodeWord(std::string_view word, Workspace& work,
                              std::vector<Token>& out) const {
  using Candidate = Workspace::Candidate;
  if (pretokenizer_.ignore_merges()) {
    const auto whole = symbols_.find(std::string(word));
    if (whole != symbols_.end() && whole->second < n_vocab()) {
      out.push_back(whole->second);
      return;
    }
  }
  auto& nodes = work.nodes;
  auto& heap = work.heap;
  nodes.clear();
  heap.clear();
  const auto n = static_cast<int32_t>(word.size());
  for (int32_t i = 0; i < n; ++i) {
    const int32_t symbol = byte_symbols_[static_cast<uint8_t>(word[i])];
    nodes.push_back({symbol, i - 1, i + 1 < n ? i + 1 : -1});
  }
  const auto candidate = [&](int32_t left, int32_t right, Candidate& result) {
    const Merge merge = merges_.Find(nodes[left].symbol, nodes[right].symbol);
    result = {merge.rank, left, nodes[left].symbol, nodes[right].symbol, merge.symbol};
    return merge.rank >= 0;
  };
  Candidate next{};
  for (int32_t i = 0; i + 1 < n; ++i) {
    if (candidate(i, i + 1, next)) heap.push_back(next);
  }
  std::make_heap(heap.begin(), heap.end());
  const auto push = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0 || !candidate(left, right, next)) return;
    heap.push_back(next);
    std::push_heap(heap.begin(), heap.end());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate best = heap.back();
    heap.pop_back();
    Workspace::Node& left = nodes[best.left];
    if (left.symbol != best.left_symbol || left.next < 0) continue;
    Workspace::Node& right = nodes[left.next];
    if (right.symbol != best.right_symbol) continue;
    left.symbol = best.merged;
    left.next = right.next;
    right.symbol = -1;
    if (left.next >= 0) nodes[left.next].previous = best.left;
    push(left.previous, best.left);
    push(best.left, left.next);
  }
  for (int32_t i = 0; i >= 0; i = nodes[i].next) Emit(nodes[i].symbol, out);
}

// A byte for which the vocabulary has no token is left out, as llama.cpp does.
void ByteLevelBpe::Emit(int32_t symbol, std::vector<Token>& out) const {
  if (symbol < n_vocab()) {
    out.push_back(symbol);
    return;
  }
  const std::string& bytes = extra_symbols_[symbol - n_vocab()];
  if (bytes.size() == 1) return;
  for (char byte : bytes) {
    const int32_t byte_symbol = byte_symbols_[static_cast<uint8_t>(byte)];
    if (byte_symbol < n_vocab()) out.push_back(byte_symbol);
  }
}

}  // namespace pith
