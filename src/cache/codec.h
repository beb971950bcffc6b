// How the K or V rows of a page are stored.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/matrix_view.h"
#include "cache/layout.h"
#include "model/key_frames.h"
#include "pith/plan.h"

namespace pith {

// Lays out the rows of the 64 entries of a page, either all keys or all values. Does not change
// once made, safe to call from many threads; rows of one page may be written by several threads at
// once.
class Codec {
 public:
  virtual ~Codec() = default;
  virtual std::string_view name() const = 0;
  // `head` is layer * n_kv_heads + kv_head, here and below: codebooks are per head.
  virtual RowFormat Format(int head) const = 0;
  virtual size_t PageBytes() const = 0;  // a multiple of 64

  // rows [n, head_dim] become entries slot..slot+n-1 of a page's part, slot + n <= 64.
  virtual void Encode(int head, MatrixView<const float> rows, int slot, std::byte* part) const = 0;
  // The row [head_dim] as a kernel sees it.
  virtual void Decode(int head, const std::byte* part, int slot, float* row) const = 0;
  // Copies one entry as it is, from page to page of a head or within one.
  virtual void Move(const std::byte* from, int from_slot, std::byte* to, int to_slot) const = 0;
  // What the codebooks of all heads take in memory.
  virtual size_t CodebookBytes() const { return 0; }
};

// Known: "f16", "q8" and "q4", for keys also "pq8xM", "pq4xM", "lrR" and "lrRq4", whose codebooks
// or directions must be among the model's. "q8" and "q4" code keys in the model's frames, if it has
// any. Throw Error(kInvalidArgument) naming the known ones, or saying what the codec asks of
// head_dim or how its codebooks are made.
std::unique_ptr<Codec> MakeKeyCodec(std::string_view name, int head_dim,
                                    const PqCodebooks* codebooks = nullptr,
                                    const KeyFrames* frames = nullptr);
std::unique_ptr<Codec> MakeValueCodec(std::string_view name, int head_dim);

// How the entries of one tier are stored.
struct TierCodecs {
  std::shared_ptr<const Codec> keys;
  std::shared_ptr<const Codec> values;

  size_t page_bytes() const { return keys->PageBytes() + values->PageBytes(); }
};

// As Plan::StoredTiers names them. Throws as above, and where they are too many or one does not
// take fewer bytes than the one before it.
std::vector<TierCodecs> MakeTiers(std::span<const Tier> tiers, int head_dim,
                                  const PqCodebooks* codebooks = nullptr,
                                  const KeyFrames* frames = nullptr);

// What a tier takes, known without codebooks. Throws as above but for these.
struct TierBytes {
  size_t page = 0;                // keys and values of 64 entries
  size_t codebooks_per_head = 0;  // in memory
};
std::vector<TierBytes> BytesOfTiers(std::span<const Tier> tiers, int head_dim);

}  // namespace pith
