// Randomness as server/core sees it, for ids that nobody may guess. Simulations bring a seeded one.
#pragma once

#include <cstddef>
#include <span>

namespace kvstow {

class RandomSource {
 public:
  virtual ~RandomSource() = default;
  // Fills with cryptographically strong random bytes. Thread-safe.
  virtual void Fill(std::span<std::byte> out) = 0;
};

}  // namespace kvstow
