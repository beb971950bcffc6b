// Random numbers that are the same on every machine.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace pith {

// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): the distributions of the standard library may
// differ from one to the next.
class SeededRandom {
 public:
  explicit SeededRandom(uint64_t state) : state_(state) {}

  uint64_t Next() {
    state_ += 0x9e3779b97f4a7c15;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  uint64_t Below(uint64_t n) { return Next() % n; }
  double Unit() { return static_cast<double>(Next() >> 11) * 0x1p-53; }  // [0, 1)

 private:
  uint64_t state_;
};

template <typename T>
void Shuffle(std::vector<T>& values, SeededRandom& random) {
  for (size_t n = values.size(); n > 1; --n) std::swap(values[n - 1], values[random.Below(n)]);
}

}  // namespace pith
