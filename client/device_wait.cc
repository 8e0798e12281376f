#include "client/device_wait.h"

#include <thread>

#include "absl/time/clock.h"

namespace kvstow::client {

absl::Status AwaitMark(DeviceKv& kv, uint64_t mark, const BulkStream::Terms& terms) {
  // A batch takes less time than a sleep does, unless the engine's own work is before it.
  constexpr int kPatience = 2000;
  for (int asked = 0;; ++asked) {
    const auto passed = kv.Passed(mark);
    if (!passed.ok()) return passed.status();
    if (*passed) return absl::OkStatus();
    if (terms.control != nullptr && terms.control->cancelled()) {
      return absl::CancelledError("the call was given up");
    }
    if (terms.deadline.expired()) {
      return absl::DeadlineExceededError("the engine's stream did not come to the copies in time");
    }
    if (asked < kPatience) {
      std::this_thread::yield();
    } else {
      absl::SleepFor(absl::Microseconds(20));
    }
  }
}

}  // namespace kvstow::client
