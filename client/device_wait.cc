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

absl::Status GatherToHost(DeviceKv& kv, const PlaneSpec& plane, size_t block,
                          std::span<std::byte> to, const BulkStream::Terms& terms) {
  const absl::Status enqueued = kv.EnqueueToHost(plane, block);
  if (absl::IsUnimplemented(enqueued)) return kv.GatherToHost(plane, block, to);
  if (!enqueued.ok()) return enqueued;
  const auto mark = kv.Mark();
  if (!mark.ok()) return mark.status();
  if (absl::Status s = AwaitMark(kv, *mark, terms); !s.ok()) return s;
  return kv.TakeToHost(to);
}

}  // namespace kvstow::client
