#include "text/sentencepiece.h"

#include <algorithm>
#include <utility>

#include "base/fail.h"
#include "base/printable.h"
#include "text/utf8.h"

namespace pith {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581 stands for a space

void ReplaceAll(std::string& text, std::string_view from, std::string_view to) {
  std::string out;
  size_t done = 0;
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, done)) {
    out.append(text, done, at - done).append(to);
    done = at + from.size();
  }
  if (done > 0) text = out.append(text, done);
}

struct Node {
  uint32_t begin;   // in the text
  uint32_t length;  // 0: merged into the one before
  int32_t previous;
  int32_t next;  // -1: none
};

struct Candidate {  // two neighbours that together are a token; stale once one has changed
  float score;
  int32_t left;
  int32_t right;
  uint32_t length;  // of both
  // Highest score first, then the leftmost: std heaps keep the greatest in front.
  bool operator<(const Candidate& other) const {
    return score != other.score ? score < other.score : left > other.left;
  }
};

}  // namespace

SentencePiece::SentencePiece(Vocabulary vocabulary_in)
    : VocabularyTokenizer(std::move(vocabulary_in)) {
  std::array<Token, 256> named;
  named.fill(-1);
  for (Token id = 0; id < n_vocab(); ++id) {
    const std::string& text = vocabulary().texts[id];
    const int byte = ByteOfName(text);
    if (byte >= 0) named[byte] = id;
    if (vocabulary().types[id] == TokenType::kByte) {
      if (byte < 0) {
        Fail(ErrorCode::kFormat, "byte token {} is named '{}', expected a name like '<0x0A>'", id,
             Printable(text));
      }
      SetPiece(id, std::string(1, static_cast<char>(byte)));
    } else {
      std::string piece = text;
      if (vocabulary().types[id] != TokenType::kUserDefined) ReplaceAll(piece, kSpace, " ");
      SetPiece(id, std::move(piece));
    }
    // As in SentencePiece, text never becomes a control, unknown or byte token by merging.
    const bool merges = !IsSpecial(id) && vocabulary().types[id] != TokenType::kByte;
    if (merges && !text.empty()) ids_[text] = id;
    longest_ = std::max(longest_, text.size());
    if (vocabulary().scores[id] != vocabulary().scores[id]) {
      Fail(ErrorCode::kFormat, "the score of token {} is not a number", id);
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    const auto raw = ids_.find(std::string_view(&c, 1));
    byte_tokens_[byte] = named[byte] >= 0 ? named[byte] : raw != ids_.end() ? raw->second : -1;
    if (byte_tokens_[byte] < 0) {
      Fail(ErrorCode::kFormat, "the vocabulary has no token for the byte 0x{:02X}", byte);
    }
  }
}

void SentencePiece::EncodeText(std::string_view raw, bool after_special,
                               std::vector<Token>& out) const {
  std::string text;
  if (vocabulary().add_space_prefix && after_special) text = " ";
  text += raw;
  ReplaceAll(text, " ", kSpace);

  std::vector<Node> nodes;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(std::string_view(text).substr(at));
    const size_t length = step.kind == Utf8Kind::kValid ? step.length : 1;
    const auto index = static_cast<int32_t>(nodes.size());
    nodes.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(length), index - 1,
                     at + length < text.size() ? index + 1 : -1});
    at += length;
  }

  std::vector<Candidate> heap;
  const auto token_at = [&](uint32_t begin, uint32_t length) -> Token {
    if (length > longest_) return -1;
    const auto found = ids_.find(std::string_view(text).substr(begin, length));
    return found == ids_.end() ? -1 : found->second;
  };
  const auto push = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    const uint32_t length = nodes[left].length + nodes[right].length;
    const Token token = token_at(nodes[left].begin, length);
    if (token < 0) return;
    heap.push_back({vocabulary().scores[token], left, right, length});
    std::push_heap(heap.begin(), heap.end());
  };
  for (int32_t i = 1; i < static_cast<int32_t>(nodes.size()); ++i) push(i - 1, i);

  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate best = heap.back();
    heap.pop_back();
    Node& left = nodes[best.left];
    Node& right = nodes[best.right];
    if (left.length == 0 || right.length == 0 || left.length + right.length != best.length) {
      continue;
    }
    left.length += right.length;
    right.length = 0;
    left.next = right.next;
    if (left.next >= 0) nodes[left.next].previous = best.left;
    push(left.previous, best.left);
    push(best.left, left.next);
  }

  for (int32_t i = nodes.empty() ? -1 : 0; i >= 0; i = nodes[i].next) {
    const Token token = token_at(nodes[i].begin, nodes[i].length);
    if (token >= 0) {
      out.push_back(token);
      continue;
    }
    for (uint32_t j = 0; j < nodes[i].length; ++j) {
      out.push_back(byte_tokens_[static_cast<uint8_t>(text[nodes[i].begin + j])]);
    }
  }
}

}  // namespace pith
