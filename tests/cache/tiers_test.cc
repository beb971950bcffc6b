// Entries that move down to a tier of codes, against a naive model of what every head must hold.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cache/cache.h"
#include "memory_probe.h"
#include "pith/error.h"
#include "tools/random_codebooks.h"

namespace pith {
namespace {

constexpr int kDim = 64;
constexpr int kHeads = 3;

std::vector<TierCodecs> Tiers(const std::string& codec) {
  static const PqCodebooks codebooks = testing::RandomCodebooks(32, 2, kDim, {"pq4x32"}, 2, 1);
  const auto tier = [](const std::string& name) {
    const bool pq = name.starts_with("pq");
    return TierCodecs{MakeKeyCodec(name, kDim, &codebooks), MakeValueCodec(pq ? "q4" : name, kDim)};
  };
  return {tier("f16"), tier(codec), tier("pq4x32")};
}

// Key and value of the entry with this number. [2, kDim]
std::vector<float> Rows(int number) {
  std::minstd_rand random(static_cast<uint32_t>(number) + 1);
  std::vector<float> rows(2 * kDim);
  for (float& x : rows) x = static_cast<float>(random() % 4096) / 512.0f - 4.0f;
  return rows;
}

// What a tier makes of rows of a head, by itself in a page.
std::vector<float> Stored(const TierCodecs& codecs, int head, const std::vector<float>& rows) {
  std::vector<float> out(rows.size());
  const Codec* parts[] = {codecs.keys.get(), codecs.values.get()};
  for (int i = 0; i < 2; ++i) {
    std::vector<std::byte> page(parts[i]->PageBytes());
    parts[i]->Encode(head, {rows.data() + i * kDim, 1, kDim, kDim}, 0, page.data());
    parts[i]->Decode(head, page.data(), 0, out.data() + i * kDim);
  }
  return out;
}

struct Entry {
  int32_t position = 0;
  std::vector<int> path = {0};  // tiers it was in
};
using Model =
    std::vector<std::map<int, Entry>>;  // of each head, by number; the worth is the number

struct Subject {
  Cache cache;
  Model model = Model(kHeads);
  int32_t n_read = 0;
};

class TiersTest : public ::testing::TestWithParam<std::string> {
 protected:
  Subject Empty(uint64_t limit = 0) { return {Cache({1, kHeads, kDim}, tiers_, limit)}; }

  void Append(Subject& subject, int n, bool abandon = false) {
    subject.cache.BeginChunk(n, subject.n_read);
    std::vector<float> keys, values, worth;
    for (int h = 0; h < kHeads; ++h) {
      keys.clear(), values.clear(), worth.clear();
      for (int i = 0; i < n; ++i, ++next_) {
        const std::vector<float> rows = Rows(next_);
        keys.insert(keys.end(), rows.begin(), rows.begin() + kDim);
        values.insert(values.end(), rows.begin() + kDim, rows.end());
        worth.push_back(static_cast<float>(next_));
        if (!abandon) subject.model[h][next_] = {subject.n_read + i};
      }
      const auto rows = static_cast<size_t>(n);
      subject.cache.Write(0, h, 0, {keys.data(), rows, kDim, kDim},
                          {values.data(), rows, kDim, kDim}, worth);
    }
    abandon ? subject.cache.AbandonChunk() : subject.cache.EndChunk();
    if (!abandon) subject.n_read += n;
  }

  // Some of the indices [begin, end), descending.
  std::vector<int32_t> Some(int64_t begin, int64_t end, uint32_t percent) {
    std::vector<int32_t> indices;
    for (int64_t i = end - 1; i >= begin; --i) {
      if (random_() % 100 < percent) indices.push_back(static_cast<int32_t>(i));
    }
    return indices;
  }

  void Evict(Subject& subject, int h, const std::vector<int32_t>& indices) {
    for (const int32_t i : indices) subject.model[h].erase(Number(subject, h, i));
    subject.cache.Evict(0, h, indices);
  }

  void MoveDown(Subject& subject, int h, uint32_t percent, int tier = 1) {
    const int64_t n = subject.cache.n_entries(0, h);
    int64_t n_above = 0;
    for (int t = 0; t < tier; ++t) n_above += subject.cache.n_entries(0, h, t);
    const auto indices = Some(n - n_above, n, percent);
    for (const int32_t i : indices) {
      subject.model[h].at(Number(subject, h, i)).path.push_back(tier);
    }
    subject.cache.MoveDown(0, h, indices, tier);
  }

  // Of a copy of its pages, as a file would hold them.
  Subject Adopted(const Subject& from) {
    struct Image {
      std::vector<std::vector<std::byte>> pages;
      std::vector<Cache::AdoptedHead> heads;
    };
    auto image = std::make_shared<Image>();
    for (int h = 0; h < kHeads; ++h) {
      const HeadEntries entries = from.cache.Entries(0, h);
      Cache::AdoptedHead head = {entries.positions, entries.worth};
      for (int tier = 0; tier < from.cache.n_tiers(); ++tier) {
        const int64_t n = from.cache.n_entries(0, h, tier);
        std::vector<std::byte>& pages = image->pages.emplace_back();
        const size_t page_bytes = from.cache.page_bytes(tier);
        pages.resize((n + kPageEntries - 1) / kPageEntries * page_bytes);
        for (size_t i = 0; i * page_bytes < pages.size(); ++i) {
          from.cache.CopyPage(0, h, static_cast<int64_t>(i), tier,
                              std::span(pages).subspan(i * page_bytes, page_bytes));
        }
        head.tiers[tier] = {n, pages.data()};
      }
      image->heads.push_back(head);
    }
    Subject adopted = Empty();
    adopted.model = from.model;
    adopted.n_read = from.n_read;
    adopted.cache.Adopt(image->heads, image);
    return adopted;
  }

  static int Number(const Subject& subject, int h, int64_t index) {
    return static_cast<int>(subject.cache.Entries(0, h).worth[index]);
  }

  // Every entry is there once, in its tier, and as that tier stores it.
  ::testing::AssertionResult Holds(const Subject& subject) {
    for (int h = 0; h < kHeads; ++h) {
      const HeadEntries entries = subject.cache.Entries(0, h);
      const auto tier_of = [&](int64_t i) {
        int tier = subject.cache.n_tiers();
        for (int64_t end = 0; end <= i;) end += subject.cache.n_entries(0, h, --tier);
        return tier;
      };
      if (entries.positions.size() != subject.model[h].size()) {
        return ::testing::AssertionFailure() << "head " << h << " has " << entries.positions.size();
      }
      std::vector<float> read(2 * kDim);
      for (int64_t i = 0; i < std::ssize(entries.positions); ++i) {
        const int number = Number(subject, h, i);
        const auto found = subject.model[h].find(number);
        if (found == subject.model[h].end() || found->second.position != entries.positions[i] ||
            found->second.path.back() != tier_of(i)) {
          return ::testing::AssertionFailure() << "head " << h << ", entry " << i;
        }
        subject.cache.Read(0, h, i, read.data(), read.data() + kDim);
        if (read != Wanted(h, number, found->second.path)) {
          return ::testing::AssertionFailure() << "rows of head " << h << ", entry " << i;
        }
      }
    }
    return ::testing::AssertionSuccess();
  }

  // A number is of one head.
  const std::vector<float>& Wanted(int head, int number, const std::vector<int>& path) {
    std::vector<float>& rows = wanted_[{number, path}];
    if (rows.empty()) {
      rows = Rows(number);
      for (const int tier : path) rows = Stored(tiers_[tier], head, rows);
    }
    return rows;
  }

  std::vector<TierCodecs> tiers_ = Tiers(GetParam());
  std::mt19937 random_{1};

 private:
  int next_ = 1;
  std::map<std::pair<int, std::vector<int>>, std::vector<float>> wanted_;
};

TEST_P(TiersTest, RandomHistoriesFollowTheModel) {
  std::vector<Subject> subjects;
  subjects.push_back(Empty());
  for (int step = 0; step < 200; ++step) {
    Subject& subject = subjects[random_() % subjects.size()];
    const uint32_t percent = random_() % 5 == 0 ? 100 : random_() % 90;
    switch (random_() % 10) {
      case 0:
      case 1:
      case 2:
        Append(subject, 1 + static_cast<int>(random_() % (random_() % 3 ? 9 : 150)));
        break;
      case 3:
        Append(subject, 1 + static_cast<int>(random_() % 70), /*abandon=*/true);
        break;
      case 4:
      case 5:
        for (int h = 0; h < kHeads; ++h) {
          MoveDown(subject, h, percent, 1 + static_cast<int>(random_() % 2));
        }
        break;
      case 6: {
        const int h = static_cast<int>(random_() % kHeads);
        Evict(subject, h, Some(0, subject.cache.n_entries(0, h), percent));
        break;
      }
      case 7: {
        const auto position = static_cast<int32_t>(random_() % (subject.n_read + 1));
        subject.cache.DropFrom(position);
        for (auto& head : subject.model) {
          std::erase_if(head, [&](const auto& e) { return e.second.position >= position; });
        }
        subject.n_read = position;
        break;
      }
      case 8: {
        Subject copy = random_() % 2 ? Subject{subject.cache.Fork(), subject.model, subject.n_read}
                                     : Adopted(subject);
        if (random_() % 2) {
          subject = std::move(copy);
        } else {
          subjects.push_back(std::move(copy));
        }
        break;
      }
      case 9:
        subject.cache.Trim();
        break;
    }
    if (subjects.size() > 4) {
      subjects.erase(subjects.begin() + static_cast<ptrdiff_t>(random_() % subjects.size()));
    }
    for (const Subject& each : subjects) ASSERT_TRUE(Holds(each)) << step;
  }
}

TEST_P(TiersTest, KernelsSeeAllTiersAndTheChunkInTheExactOne) {
  Subject subject = Empty();
  Append(subject, 200);
  for (int h = 0; h < kHeads; ++h) MoveDown(subject, h, 60);
  for (int h = 0; h < kHeads; ++h) MoveDown(subject, h, 20, 2);
  subject.cache.BeginChunk(7, subject.n_read);
  for (int h = 0; h < kHeads; ++h) {
    const HeadView& view = subject.cache.Views(0)[h];
    ASSERT_EQ(view.n_tiers, 3);
    EXPECT_EQ(view.n_chunk, 7);
    EXPECT_EQ(view.n_entries(), 207);
    for (int t = 1; t < 3; ++t) {
      EXPECT_EQ(view.tiers[t].n_entries, subject.cache.n_entries(0, h, t));
      EXPECT_EQ(view.tiers[t].key_bytes, tiers_[t].keys->PageBytes());
      EXPECT_EQ(view.tiers[t].page_bytes, tiers_[t].page_bytes());
      EXPECT_EQ(view.tiers[t].keys.id, tiers_[t].keys->Format(h).id);
      EXPECT_EQ(view.tiers[t].values.id, tiers_[t].values->Format(h).id);
    }
  }
  subject.cache.AbandonChunk();
  EXPECT_TRUE(Holds(subject));
}

TEST_P(TiersTest, ReportedBytesAreAllocatedBytes) {
  const uint64_t before = SystemMemory("VmRSS");
  Cache cache({32, 2, kDim}, tiers_, 0);
  const std::vector<float> row(256 * kDim, 1.0f);
  uint64_t written = 0;
  for (int begin = 0; begin < 8192; begin += 256) {
    cache.BeginChunk(256, begin);
    std::vector<int32_t> left;
    for (int head = 0; head < 64; ++head) {
      const MatrixView<const float> rows = {row.data(), 256, kDim, kDim};
      cache.Write(head / 2, head % 2, 0, rows, rows, {});
    }
    cache.EndChunk();
    for (int64_t i = cache.n_entries(0, 0) - 65; i >= cache.n_entries(0, 0, 1); --i) {
      left.push_back(static_cast<int32_t>(i));
    }
    for (int head = 0; head < 64; ++head) cache.MoveDown(head / 2, head % 2, left, 1);
    written += 256 * 64;
  }
  cache.Trim();
  const uint64_t coded = (written / kPageEntries - 64) * cache.page_bytes(1);
  const uint64_t payload = coded + 64 * cache.page_bytes(0) + written * 8;
  EXPECT_EQ(cache.total_entries(), static_cast<int64_t>(written));
  EXPECT_GE(cache.allocated_bytes(), payload);
  EXPECT_LE(cache.allocated_bytes(), payload * 105 / 100);
  if (kSystemMemoryTells) {
    EXPECT_LE(SystemMemory("VmRSS"), before + cache.allocated_bytes() * 11 / 10);
  }
}

TEST_P(TiersTest, TheLimitHoldsWhileEntriesMoveDown) {
  constexpr uint64_t kLimit = uint64_t{3} << 20;
  Subject subject = Empty(kLimit);
  int64_t n = 0;
  try {
    for (; n < 100000; n += 100) {
      Append(subject, 100);
      for (int h = 0; h < kHeads; ++h) MoveDown(subject, h, 95);
      for (int h = 0; h < kHeads; ++h) MoveDown(subject, h, 2, 2);
      ASSERT_LE(subject.cache.peak_bytes(), kLimit);
    }
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kMemoryLimit) << e.what();
  }
  EXPECT_TRUE(Holds(subject));
  // Close to what the limit has room for: entries, their metadata and 5 % that are exact.
  const double each = static_cast<double>(subject.cache.page_bytes(1)) / kPageEntries + 8;
  EXPECT_GE(static_cast<double>(kHeads * n) * each, 0.8 * kLimit);
}

TEST_P(TiersTest, AForkMayHaveOtherCodecsOfWhatIsExact) {
  Cache exact({1, kHeads, kDim}, {tiers_[0]}, 0);
  Subject from{std::move(exact)};
  Append(from, 300);
  Subject fork{from.cache.Fork(tiers_), from.model, from.n_read};
  for (int h = 0; h < kHeads; ++h) MoveDown(fork, h, 70);
  EXPECT_TRUE(Holds(fork));
  EXPECT_TRUE(Holds(from));
  from = Empty();
  EXPECT_TRUE(Holds(fork));
}

INSTANTIATE_TEST_SUITE_P(Codecs, TiersTest, ::testing::Values("f16", "q8", "q4"),
                         [](const auto& codec) { return codec.param; });

}  // namespace
}  // namespace pith
