// Where a call's own time goes.
#pragma once

#include <chrono>

#include "absl/time/time.h"

namespace kvstow::client {

// Adds the time of its life to `total`.
class Stopwatch {
 public:
  explicit Stopwatch(absl::Duration* total) : total_(total) {}
  ~Stopwatch() { *total_ += absl::FromChrono(std::chrono::steady_clock::now() - start_); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  absl::Duration* const total_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace kvstow::client
