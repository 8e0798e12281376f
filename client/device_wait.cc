#include "client/device_wait.h"

#include "client/patience.h"

namespace kvstow::client {

absl::Status AwaitMark(DeviceKv& kv, uint64_t mark, const BulkStream::Terms& terms) {
  for (Patience patience;; patience.Wait()) {
    const auto passed = kv.Passed(mark);
    if (!passed.ok()) return passed.status();
    if (*passed) return absl::OkStatus();
    if (terms.control != nullptr && terms.control->cancelled()) {
      return absl::CancelledError("the call was given up");
    }
    if (terms.deadline.expired()) {
      return absl::DeadlineExceededError("the engine's stream did not come to the copies in time");
    }
  }
}

}  // namespace kvstow::client
