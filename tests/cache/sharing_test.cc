// Caches that share pages, against a naive model of what each of them must hold.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "cache/cache.h"
#include "memory_probe.h"
#include "pith/error.h"

namespace pith {
namespace {

constexpr int kDim = 64;

Cache MakeCache(int n_layers, int n_kv_heads, uint64_t limit = 0) {
  return Cache({n_layers, n_kv_heads, kDim}, MakeTiers(Plan().StoredTiers(), kDim), limit);
}

// What an entry holds tells its head and a number that no other entry has.
float Element(int head, int number, int d) {
  return static_cast<float>((number * 37 + head * 5 + d) % 2048);
}

struct Entry {
  int32_t position = 0;
  float worth = 0;
  int number = 0;
};
using Model = std::vector<std::vector<Entry>>;  // [n_heads], in the cache's order

struct Subject {
  Cache cache;
  Model model;
  int32_t n_read = 0;
};

class Numbers {
 public:
  void Append(Subject& subject, int n, bool abandon = false) {
    Cache& cache = subject.cache;
    cache.BeginChunk(n, subject.n_read);
    const int n_heads = cache.shape().n_kv_heads;
    std::vector<float> k(size_t{1} * n * kDim), v(k.size()), worth(n);
    for (int h = 0; h < cache.shape().n_layers * n_heads; ++h) {
      for (int i = 0; i < n; ++i) {
        worth[i] = static_cast<float>(next_ % 977) - 300;
        if (!abandon) subject.model[h].push_back({subject.n_read + i, worth[i], next_});
        for (int d = 0; d < kDim; ++d) {
          k[i * kDim + d] = Element(h, next_, d);
          v[i * kDim + d] = -k[i * kDim + d];
        }
        ++next_;
      }
      const size_t rows = static_cast<size_t>(n), dim = kDim;
      cache.Write(h / n_heads, h % n_heads, 0, {k.data(), rows, dim, dim},
                  {v.data(), rows, dim, dim}, worth);
    }
    if (abandon) {
      cache.AbandonChunk();
    } else {
      cache.EndChunk();
      subject.n_read += n;
    }
  }

 private:
  int next_ = 0;
};

// The last entries that stay go to the first holes; `holes` descend.
void Remove(std::vector<Entry>& entries, std::vector<int32_t> holes) {
  while (!holes.empty()) {
    if (holes.front() + 1 == std::ssize(entries)) {
      holes.erase(holes.begin());
    } else {
      entries[holes.back()] = entries.back();
      holes.pop_back();
    }
    entries.pop_back();
  }
}

void Evict(Subject& subject, int h, const std::vector<int32_t>& holes) {
  const int n_heads = subject.cache.shape().n_kv_heads;
  subject.cache.Evict(h / n_heads, h % n_heads, holes);
  Remove(subject.model[h], holes);
}

void DropFrom(Subject& subject, int32_t position) {
  subject.cache.DropFrom(position);
  for (auto& entries : subject.model) {
    std::vector<int32_t> holes;
    for (size_t i = entries.size(); i-- > 0;) {
      if (entries[i].position >= position) holes.push_back(static_cast<int32_t>(i));
    }
    Remove(entries, holes);
  }
  subject.n_read = std::min(subject.n_read, position);
}

// Every entry of every head, in order and bit for bit.
::testing::AssertionResult Same(const Subject& subject) {
  const Cache& cache = subject.cache;
  const int n_heads = cache.shape().n_kv_heads;
  std::vector<float> k(kDim), v(kDim);
  for (int h = 0; h < cache.shape().n_layers * n_heads; ++h) {
    const HeadEntries entries = cache.Entries(h / n_heads, h % n_heads);
    const auto& wanted = subject.model[h];
    if (entries.positions.size() != wanted.size() || entries.worth.size() != wanted.size()) {
      return ::testing::AssertionFailure() << "head " << h << " has " << entries.positions.size()
                                           << " entries instead of " << wanted.size();
    }
    for (size_t i = 0; i < wanted.size(); ++i) {
      cache.Read(h / n_heads, h % n_heads, static_cast<int64_t>(i), k.data(), v.data());
      bool same = entries.positions[i] == wanted[i].position && entries.worth[i] == wanted[i].worth;
      for (int d = 0; d < kDim; ++d) {
        const float wanted_key = Element(h, wanted[i].number, d);
        same = same && k[d] == wanted_key && v[d] == -wanted_key;
      }
      if (!same) return ::testing::AssertionFailure() << "head " << h << ", entry " << i;
    }
  }
  return ::testing::AssertionSuccess();
}

// The pages of a cache one after another in memory of their own, as a file would hold them.
struct Image {
  std::vector<std::byte> storage;
  std::vector<std::vector<int32_t>> positions;
  std::vector<std::vector<float>> worth;
  std::vector<Cache::AdoptedHead> heads;
};

std::shared_ptr<const Image> MakeImage(const Cache& cache) {
  auto image = std::make_shared<Image>();
  const int n_heads = cache.shape().n_kv_heads;
  std::vector<size_t> offsets;
  for (int h = 0; h < cache.shape().n_layers * n_heads; ++h) {
    const HeadEntries entries = cache.Entries(h / n_heads, h % n_heads);
    image->positions.emplace_back(entries.positions.begin(), entries.positions.end());
    image->worth.emplace_back(entries.worth.begin(), entries.worth.end());
    offsets.push_back(image->storage.size());
    for (size_t p = 0; p * kPageEntries < entries.positions.size(); ++p) {
      const auto page = cache.Page(h / n_heads, h % n_heads, static_cast<int64_t>(p));
      image->storage.insert(image->storage.end(), page.begin(), page.end());
    }
  }
  for (size_t h = 0; h < offsets.size(); ++h) {
    image->heads.push_back(
        {image->positions[h],
         image->worth[h],
         {{{std::ssize(image->positions[h]), image->storage.data() + offsets[h]}}}});
  }
  return image;
}

Subject Adopted(const Subject& from, std::shared_ptr<const Image>* image_out = nullptr) {
  const CacheShape& shape = from.cache.shape();
  Subject adopted{MakeCache(shape.n_layers, shape.n_kv_heads), from.model, from.n_read};
  auto image = MakeImage(from.cache);
  adopted.cache.Adopt(image->heads, image);
  if (image_out) *image_out = image;
  return adopted;
}

Subject Empty(int n_layers, int n_kv_heads, uint64_t limit = 0) {
  return {MakeCache(n_layers, n_kv_heads, limit), Model(size_t{1} * n_layers * n_kv_heads), 0};
}

Subject Forked(Subject& from) { return {from.cache.Fork(), from.model, from.n_read}; }

std::vector<int32_t> RandomHoles(size_t n, uint32_t percent, std::mt19937& random) {
  std::vector<int32_t> holes;
  for (size_t i = n; i-- > 0;) {
    if (random() % 100 < percent) holes.push_back(static_cast<int32_t>(i));
  }
  return holes;
}

TEST(Sharing, RandomHistoriesOfManyCachesFollowTheModel) {
  for (uint32_t seed = 0; seed < 12; ++seed) {
    std::mt19937 random(seed);
    Numbers numbers;
    std::vector<Subject> subjects;
    subjects.push_back(Empty(2, 2));
    for (int step = 0; step < 250; ++step) {
      Subject& subject = subjects[random() % subjects.size()];
      switch (random() % 10) {
        case 0:
        case 1:
        case 2:
          numbers.Append(subject, 1 + static_cast<int>(random() % (random() % 3 ? 9 : 150)));
          break;
        case 3:
          numbers.Append(subject, 1 + static_cast<int>(random() % 100), /*abandon=*/true);
          break;
        case 4:
        case 5: {
          const uint32_t percent = random() % 4 == 0 ? 100 : random() % 90;
          for (int h = 0; h < 4; ++h) {
            Evict(subject, h,
                  RandomHoles(subject.model[h].size(), percent * (random() % 3) / 2, random));
          }
          break;
        }
        case 6:
          DropFrom(subject, static_cast<int32_t>(random() % (subject.n_read + 1)));
          break;
        case 7: {
          Subject fork = Forked(subject);
          subjects.push_back(std::move(fork));
          break;
        }
        case 8: {
          Subject adopted = Adopted(subject);
          if (random() % 2) {
            subject = std::move(adopted);
          } else {
            subjects.push_back(std::move(adopted));
          }
          break;
        }
        case 9:
          subject.cache.Trim();
          break;
      }
      if (subjects.size() > 6) {
        subjects.erase(subjects.begin() + static_cast<ptrdiff_t>(random() % subjects.size()));
      }
      for (const Subject& each : subjects) ASSERT_TRUE(Same(each)) << seed << " " << step;
    }
  }
}

TEST(Sharing, ForkingCopiesNothingAndEvictingInTheForkOnlyWhatItKeeps) {
  Numbers numbers;
  Subject parent = Empty(4, 4);
  numbers.Append(parent, 4096);
  const uint64_t full = parent.cache.allocated_bytes();
  const auto before = MakeImage(parent.cache);
  Subject fork = Forked(parent);
  const auto own_bytes = [](const Cache& cache) {
    return cache.allocated_bytes() - cache.shared_bytes();
  };
  EXPECT_LE(own_bytes(fork.cache), full / 25);
  EXPECT_LE(own_bytes(parent.cache), full / 25);
  EXPECT_LE(fork.cache.allocated_bytes(), full);
  std::mt19937 random(1);
  for (int h = 0; h < 16; ++h) {
    std::vector<int32_t> all(4096);
    for (int i = 0; i < 4096; ++i) all[i] = i;
    std::shuffle(all.begin(), all.end(), random);
    all.resize(3072);
    std::sort(all.begin(), all.end(), std::greater<>());
    Evict(fork, h, all);
  }
  // Not trimmed: this is what copying took at its height, free pages included.
  EXPECT_LE(own_bytes(fork.cache), full * 26 / 100 + full / 50 + 4 * fork.cache.page_bytes());
  EXPECT_LE(fork.cache.peak_bytes(), full + full / 25);
  fork.cache.Trim();
  EXPECT_LE(fork.cache.allocated_bytes(), full * 26 / 100 + 4 * fork.cache.page_bytes());
  EXPECT_TRUE(Same(fork));
  EXPECT_TRUE(Same(parent));
  EXPECT_EQ(MakeImage(parent.cache)->storage, before->storage);
  EXPECT_EQ(parent.cache.allocated_bytes(), parent.cache.shared_bytes() + own_bytes(parent.cache));
}

TEST(Sharing, SharedOrNotTheOrderOfEntriesIsTheSame) {
  Numbers numbers;
  Subject original = Empty(1, 2);
  numbers.Append(original, 300);
  Subject fork = Forked(original);
  Subject adopted = Adopted(original);
  Subject plain = Empty(1, 2);
  Numbers again;
  again.Append(plain, 300);
  std::mt19937 random(4);
  for (int h = 0; h < 2; ++h) {
    const auto holes = RandomHoles(300, 60, random);
    Evict(fork, h, holes);
    Evict(adopted, h, holes);
    Evict(plain, h, holes);
  }
  for (int h = 0; h < 2; ++h) {
    const auto wanted = plain.cache.Entries(0, h);
    for (const Subject* subject : {&fork, &adopted}) {
      const auto found = subject->cache.Entries(0, h);
      EXPECT_TRUE(std::ranges::equal(found.positions, wanted.positions));
      EXPECT_TRUE(std::ranges::equal(found.worth, wanted.worth));
    }
  }
  EXPECT_TRUE(Same(fork));
  EXPECT_TRUE(Same(adopted));
}

TEST(Sharing, AppendingCopiesOnePagePerHeadAndAbandoningPutsItBack) {
  Numbers numbers;
  Subject parent = Empty(2, 2);
  numbers.Append(parent, 100);
  Subject fork = Forked(parent);
  const uint64_t shared = fork.cache.shared_bytes(), bytes = fork.cache.allocated_bytes();
  const auto page = fork.cache.Page(1, 1, 1);
  numbers.Append(fork, 10, /*abandon=*/true);
  fork.cache.Trim();
  EXPECT_EQ(fork.cache.shared_bytes(), shared);
  EXPECT_LE(fork.cache.allocated_bytes(), bytes + 4096);  // longer lists of positions and worths
  EXPECT_EQ(fork.cache.Page(1, 1, 1).data(), page.data());
  numbers.Append(fork, 10);
  EXPECT_EQ(fork.cache.shared_bytes(), shared / 2);
  EXPECT_NE(fork.cache.Page(1, 1, 1).data(), page.data());
  EXPECT_EQ(fork.cache.Page(1, 1, 0).data(), parent.cache.Page(1, 1, 0).data());
  EXPECT_TRUE(Same(fork));
  EXPECT_TRUE(Same(parent));
}

TEST(Sharing, TheLimitCountsSharedPagesAndCopies) {
  Numbers numbers;
  Subject parent = Empty(2, 2);
  numbers.Append(parent, 100);
  parent.cache.Trim();
  const uint64_t all = parent.cache.allocated_bytes();
  const auto image = MakeImage(parent.cache);

  Cache small = MakeCache(2, 2, all / 2);
  try {
    small.Adopt(image->heads, image);
    FAIL() << "adopted over its limit";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kMemoryLimit);
  }
  EXPECT_EQ(small.total_entries(), 0);
  EXPECT_EQ(small.allocated_bytes(), 0u);

  // Room for the pages as they are and for copies in three heads of four.
  Subject tight{MakeCache(2, 2, all + 3 * parent.cache.page_bytes() + 100), parent.model, 100};
  tight.cache.Adopt(image->heads, image);
  EXPECT_THROW(numbers.Append(tight, 1), Error);
  EXPECT_TRUE(Same(tight));
  EXPECT_EQ(tight.cache.shared_bytes(), tight.cache.page_bytes() * 8);
  Subject enough{MakeCache(2, 2, all + 4 * parent.cache.page_bytes() + 4096), parent.model, 100};
  enough.cache.Adopt(image->heads, image);
  numbers.Append(enough, 1);
  EXPECT_TRUE(Same(enough));
  EXPECT_LE(enough.cache.peak_bytes(), all + 4 * parent.cache.page_bytes() + 4096);
}

TEST(Sharing, MemoryIsLetGoWithItsLastPage) {
  Numbers numbers;
  Subject from = Empty(1, 2);
  numbers.Append(from, 200);
  std::shared_ptr<const Image> image;
  Subject adopted = Adopted(from, &image);
  EXPECT_EQ(image.use_count(), 2);
  Subject fork = Forked(adopted);
  EXPECT_EQ(image.use_count(), 3);
  DropFrom(adopted, 0);
  EXPECT_EQ(adopted.cache.shared_bytes(), 0u);
  EXPECT_EQ(image.use_count(), 2);
  EXPECT_TRUE(Same(fork));
  fork = Empty(1, 2);
  EXPECT_EQ(image.use_count(), 1);
  numbers.Append(adopted, 70);
  EXPECT_TRUE(Same(adopted));
}

// A fork that keeps a few whole pages of its parent must not keep the parent's whole memory.
TEST(Sharing, SystemMemoryIsWhatTheCachesThatAreLeftHold) {
  Numbers numbers;
  const uint64_t before = SystemMemory("VmRSS");
  Subject fork = Empty(1, 1);
  uint64_t full = 0;
  {
    Subject parent = Empty(8, 8);
    numbers.Append(parent, 4096);
    full = parent.cache.allocated_bytes();
    fork = Forked(parent);
    std::vector<int32_t> holes;
    for (int32_t i = 4095; i >= 0; --i) {
      if (i % 4 != 0 && i >= 128) holes.push_back(i);
    }
    for (int h = 0; h < 64; ++h) Evict(fork, h, holes);
    fork.cache.Trim();
    EXPECT_GT(fork.cache.shared_bytes(), 0u);
  }
  EXPECT_TRUE(Same(fork));
  EXPECT_LE(fork.cache.allocated_bytes(), full * 3 / 10);
  if (kSystemMemoryTells) {
    EXPECT_LE(SystemMemory("VmRSS") - before, full * 4 / 10);
  }
}

TEST(Sharing, ForksInThreadsShareTheirPages) {
  Numbers numbers;
  Subject parent = Empty(2, 2);
  numbers.Append(parent, 1000);
  std::vector<Subject> forks;
  for (int i = 0; i < 4; ++i) forks.push_back(Forked(parent));
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      std::mt19937 random(i);
      for (int round = 0; round < 20; ++round) {
        Subject fork = Forked(forks[i]);
        for (int h = 0; h < 4; ++h) Evict(fork, h, RandomHoles(fork.model[h].size(), 10, random));
        fork.cache.Trim();
        forks[i] = std::move(fork);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Subject& fork : forks) EXPECT_TRUE(Same(fork));
  EXPECT_TRUE(Same(parent));
}

TEST(Sharing, WorthIsEachCachesOwn) {
  Numbers numbers;
  Subject parent = Empty(1, 1);
  numbers.Append(parent, 130);
  Subject fork = Forked(parent);
  const std::vector<float> judged = {1.5f, std::numeric_limits<float>::infinity(), -2.0f};
  fork.cache.SetWorth(0, 0, 64, judged);
  EXPECT_TRUE(Same(parent));
  for (int i = 0; i < 3; ++i) fork.model[0][64 + i].worth = judged[i];
  EXPECT_TRUE(Same(fork));
}

TEST(Sharing, DroppingTheTailOfAnUntouchedCacheMovesNothing) {
  Numbers numbers;
  Subject subject = Empty(1, 2);
  numbers.Append(subject, 150);
  Evict(subject, 0, {120, 80, 3});
  const auto before = MakeImage(subject.cache);
  numbers.Append(subject, 500);
  DropFrom(subject, 150);
  EXPECT_EQ(MakeImage(subject.cache)->positions, before->positions);
  EXPECT_TRUE(Same(subject));
}

}  // namespace
}  // namespace pith
