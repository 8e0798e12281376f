// Waiting for what another thread or process does in its own time.
#pragma once

#include <thread>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace kvstow::testing {

// Whether it becomes true in time, which it does at once where nothing is wrong.
template <typename F>
bool Eventually(F&& done, absl::Duration patience = absl::Seconds(60)) {
  const absl::Time end = absl::Now() + patience;
  while (absl::Now() < end) {
    if (done()) return true;
    std::this_thread::yield();
  }
  return false;
}

}  // namespace kvstow::testing
