// Time as server/core sees it: monotonic, so that a stepped wall clock neither ends a lease early
// nor keeps it for ever. Simulations bring their own.
#pragma once

#include "absl/time/time.h"

namespace kvstow {

class Clock {
 public:
  virtual ~Clock() = default;
  // Never goes back. The origin is unspecified: only differences mean something. Thread-safe.
  virtual absl::Time Now() const = 0;
};

}  // namespace kvstow
