#include "client/device_landing.h"

#include <algorithm>
#include <thread>

#include "absl/time/clock.h"

namespace kvstow::client {

absl::Status DeviceLanding::Launch(const GetAssembly::Place& received, const StagedCount& read) {
  if (!batch_.empty()) {
    const absl::Status scattered = kv_.Scatter(batch_);
    batch_.clear();
    if (!scattered.ok()) return scattered;
  }
  const auto mark = kv_.Mark();
  if (!mark.ok()) return mark.status();
  flying_.push_back({*mark, received, read});
  return absl::OkStatus();
}

absl::Status DeviceLanding::Await(uint64_t mark) {
  // A batch takes less time than a sleep does, unless the engine's own work is before it.
  constexpr int kPatience = 2000;
  for (int asked = 0;; ++asked) {
    const auto passed = kv_.Passed(mark);
    if (!passed.ok()) return passed.status();
    if (*passed) return absl::OkStatus();
    if (deadline_.expired()) {
      return absl::DeadlineExceededError("the engine's stream did not come to the copies in time");
    }
    if (asked < kPatience) {
      std::this_thread::yield();
    } else {
      absl::SleepFor(absl::Microseconds(20));
    }
  }
}

absl::Status DeviceLanding::AwaitAllBut(size_t batches) {
  while (flying_.size() > batches) {
    if (absl::Status s = Await(flying_.front().mark); !s.ok()) return s;
    landed_ = flying_.front();
    flying_.pop_front();
  }
  return absl::OkStatus();
}

}  // namespace kvstow::client
