// Reproducible randomness: splitmix64 from a seed. Thread-safe.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/core/random.h"

namespace kvstow {

class FakeRandom : public RandomSource {
 public:
  explicit FakeRandom(uint64_t seed = 1) : state_(seed) {}

  void Fill(std::span<std::byte> out) override {
    absl::MutexLock lock(&mu_);
    while (!out.empty()) {
      const uint64_t word = Next();
      const size_t n = std::min(out.size(), sizeof(word));
      std::memcpy(out.data(), &word, n);
      out = out.subspan(n);
    }
  }

 private:
  uint64_t Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

  absl::Mutex mu_;
  uint64_t state_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow
