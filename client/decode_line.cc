#include "client/decode_line.h"

#include <utility>

namespace kvstow::client {
namespace {

constexpr size_t kAheadBytes = size_t{16} << 20;

}  // namespace

DecodeLine::~DecodeLine() {
  unwanted_ = true;
  for (const auto& plane : planes_) plane->decoded.WaitForNotification();
}

void DecodeLine::Add(std::unique_ptr<Plane> plane) {
  plane->job.unwanted = &unwanted_;
  bytes_ += plane->job.values.size();
  Plane* const added = plane.get();
  planes_.push_back(std::move(plane));
  coder_.Decode(&added->job, [added](absl::Status status) {
    added->status = std::move(status);
    added->decoded.Notify();
  });
}

bool DecodeLine::full() const { return bytes_ >= kAheadBytes; }

bool DecodeLine::AwaitFront(size_t last_index, const Deadline& deadline) const {
  const auto decoded = [&](const Plane& plane) {
    return plane.decoded.WaitForNotificationWithTimeout(deadline.remaining());
  };
  const Plane* last = &front();
  size_t bytes = 0;
  for (const auto& plane : planes_) {
    bytes += plane->job.values.size();
    if (plane->index > last_index || bytes > bytes_ / 2) break;
    last = plane.get();
  }
  // Several threads do not end in the order in which they began.
  return decoded(*last) && decoded(front());
}

std::unique_ptr<DecodeLine::Plane> DecodeLine::TakeFront() {
  std::unique_ptr<Plane> plane = std::move(planes_.front());
  planes_.pop_front();
  bytes_ -= plane->job.values.size();
  return plane;
}

}  // namespace kvstow::client
