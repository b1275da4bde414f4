// Seeded random numbers that are the same with every library: SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable
// pseudorandom number generators"). Used by what draws graphs and data; a seed repeats all of it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace sinter {

class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  int64_t Below(int64_t n) { return static_cast<int64_t>(Next() % static_cast<uint64_t>(n)); }
  int64_t Between(int64_t low, int64_t high) { return low + Below(high - low + 1); }  // both ends included
  bool Chance(int percent) { return Below(100) < percent; }
  double Uniform(double low, double high) { return low + (high - low) * static_cast<double>(Next() >> 11) * 0x1p-53; }
  // An element of a container that is not empty.
  template <typename Container>
  auto& Pick(Container& items) {
    return items[static_cast<size_t>(Below(static_cast<int64_t>(items.size())))];
  }

 private:
  uint64_t state_;
};

// A seed for what is called `name` among all that `seed` begets.
inline uint64_t SeedFor(uint64_t seed, absl::string_view name) {
  uint64_t hash = seed ^ 0xcbf29ce484222325;
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;  // FNV-1a
  return Dice(hash).Next();
}

}  // namespace sinter
