#include "client/device_landing.h"

#include <utility>

#include "client/device_wait.h"

namespace kvstow::client {
namespace {

// Planes from the host on their way at a time.
constexpr size_t kMostFromHost = 3;

}  // namespace

absl::Status DeviceLanding::Note(absl::Status status) {
  failed_ |= !status.ok() && !absl::IsDeadlineExceeded(status) && !absl::IsCancelled(status);
  return status;
}

absl::Status DeviceLanding::Begin() {
  if (absl::Status s = Note(kv_.BeginGet()); !s.ok()) return s;
  (void)kv_.TakeDamage();
  return absl::OkStatus();
}

absl::Status DeviceLanding::ScatterFromHost(const PlaneSpec& plane, size_t block,
                                            std::span<const std::byte> bytes) {
  if (from_host_.size() == kMostFromHost) {
    if (absl::Status s = Await(from_host_.front()); !s.ok()) return s;
    from_host_.pop_front();
  }
  if (absl::Status s = Note(kv_.ScatterFromHost(plane, block, bytes)); !s.ok()) return s;
  const auto mark = kv_.Mark();
  if (!mark.ok()) return Note(mark.status());
  from_host_.push_back(*mark);
  return absl::OkStatus();
}

absl::Status DeviceLanding::Launch(const GetAssembly::Place& received, const StagedCount& read) {
  if (!batch_.empty()) {
    unmarked_ = true;
    absl::Status scattered = kv_.Scatter(batch_);
    batch_.clear();
    if (!scattered.ok()) return Note(std::move(scattered));
  }
  const auto mark = kv_.Mark();
  if (!mark.ok()) return Note(mark.status());
  unmarked_ = false;
  flying_.push_back({*mark, received, read});
  return absl::OkStatus();
}

absl::Status DeviceLanding::AwaitAllBut(size_t batches) {
  while (flying_.size() > batches) {
    if (absl::Status s = Await(flying_.front().mark); !s.ok()) return s;
    TakeLanded();
  }
  return absl::OkStatus();
}

absl::Status DeviceLanding::Await(uint64_t mark) { return Note(AwaitMark(kv_, mark, terms_)); }

absl::StatusOr<bool> DeviceLanding::Look() {
  while (!flying_.empty()) {
    const auto passed = kv_.Passed(flying_.front().mark);
    if (!passed.ok()) return Note(passed.status());
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
