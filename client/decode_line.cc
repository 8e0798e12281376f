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
  plane->job.bytes = plane->bytes;
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

std::unique_ptr<DecodeLine::Plane> DecodeLine::TakeFront(const Deadline& deadline) {
  if (!front().decoded.WaitForNotificationWithTimeout(deadline.remaining())) return nullptr;
  std::unique_ptr<Plane> plane = std::move(planes_.front());
  planes_.pop_front();
  bytes_ -= plane->job.values.size();
  return plane;
}

}  // namespace kvstow::client
