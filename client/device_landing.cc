#include "client/device_landing.h"

#include <utility>

#include "client/device_wait.h"

namespace kvstow::client {

absl::Status DeviceLanding::Launch(const GetAssembly::Place& received, const StagedCount& read) {
  if (!std::exchange(begun_, true)) {
    if (absl::Status s = kv_.BeginGet(); !s.ok()) return s;
  }
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

absl::Status DeviceLanding::AwaitAllBut(size_t batches) {
  while (flying_.size() > batches) {
    if (absl::Status s = AwaitMark(kv_, flying_.front().mark, terms_); !s.ok()) return s;
    TakeLanded();
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> DeviceLanding::Look() {
  while (!flying_.empty()) {
    const auto passed = kv_.Passed(flying_.front().mark);
    if (!passed.ok()) return passed.status();
    if (!*passed) return true;
    TakeLanded();
  }
  return false;
}

void DeviceLanding::TakeLanded() {
  landed_ = flying_.front();
  flying_.pop_front();
}

}  // namespace kvstow::client
