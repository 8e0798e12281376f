// How a thread waits for what nobody will wake it for, a worker's own stream: a batch takes less
// time than a sleep does, unless the engine's own work is before it.
//
// Not thread-safe.
#pragma once

#include <thread>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace kvstow::client {

class Patience {
 public:
  // Between one look and the next.
  void Wait() {
    if (looks_ < kLooks) {
      ++looks_;
      std::this_thread::yield();
    } else {
      absl::SleepFor(absl::Microseconds(20));
    }
  }

 private:
  static constexpr int kLooks = 2000;
  int looks_ = 0;
};

}  // namespace kvstow::client
