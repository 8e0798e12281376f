// The machine's clock and randomness, as server/core asks for them.
#pragma once

#include "server/core/clock.h"
#include "server/core/random.h"

namespace kvstow {

// CLOCK_MONOTONIC.
class SteadyClock final : public Clock {
 public:
  absl::Time Now() const override;
};

// getrandom(2).
class SystemRandom final : public RandomSource {
 public:
  void Fill(std::span<std::byte> out) override;
};

}  // namespace kvstow
