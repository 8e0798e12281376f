// Encoded planes of a Get on their way into the caller's memory: the coder decodes several at a
// time, the call takes them in the order they came.
//
// Not thread-safe. When it is gone nothing writes any more: its end waits for what the coder has in
// its hands, at most a plane a thread, and takes back the rest.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>

#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "client/deadline.h"
#include "client/kvstow/coding.h"

namespace kvstow::client {

class DecodeLine {
 public:
  struct Plane {
    // Where in the Get's order it stands.
    size_t index = 0;
    size_t slot = 0;
    std::unique_ptr<std::byte[]> bytes;    // encoded, job.bytes
    std::unique_ptr<std::byte[]> scratch;  // where it is decoded to, when that is not the caller's
    SpaceCoder::DecodeJob job;
    absl::Status status;  // once decoded
    absl::Notification decoded;
  };

  explicit DecodeLine(SpaceCoder* coder) : coder_(*coder) {}
  ~DecodeLine();
  DecodeLine(const DecodeLine&) = delete;
  DecodeLine& operator=(const DecodeLine&) = delete;

  SpaceCoder& coder() { return coder_; }
  // `job` is complete but for `unwanted`.
  void Add(std::unique_ptr<Plane> plane);

  bool empty() const { return planes_.empty(); }
  // More is not to be added before some was taken.
  bool full() const;
  // REQUIRES !empty(). The oldest.
  const Plane& front() const { return *planes_.front(); }
  bool front_ready() const { return !empty() && front().decoded.HasBeenNotified(); }
  // REQUIRES !empty(). Waits for the oldest and, since to wake a thread costs the coder a tenth of
  // a plane's decoding, for those behind it: up to the plane with `last_index`, at most half of
  // what is in the line. False when they were not decoded by the deadline.
  bool AwaitFront(size_t last_index, const Deadline& deadline) const;
  // REQUIRES front_ready().
  std::unique_ptr<Plane> TakeFront();

 private:
  SpaceCoder& coder_;
  std::atomic<bool> unwanted_{false};
  std::deque<std::unique_ptr<Plane>> planes_;
  size_t bytes_ = 0;  // raw
};

}  // namespace kvstow::client
