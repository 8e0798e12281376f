// Moves records between device and host memory by the device's copy engine, a batch at a time: one
// thread of the executor waits for it at most, the others are there for Gets. A batch that the
// device fails at is told as failed, so the records stay where they were.
//
// Thread-safe.
#pragma once

#include <deque>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gpu/api/device.h"
#include "server/core/record_mover.h"

namespace kvstow {

class DeviceMover final : public RecordMover {
 public:
  // REQUIRES that all tiers it is given are PagedTiers. Both outlive it, and it outlives the store.
  DeviceMover(gpu::Device* device, Executor* executor) : device_(*device), executor_(*executor) {}
  void Move(std::vector<RecordMove> moves, Done done) override;

 private:
  struct Batch {
    std::vector<RecordMove> moves;
    Done done;
  };
  void RunNext();

  gpu::Device& device_;
  Executor& executor_;

  absl::Mutex mu_;
  std::deque<Batch> waiting_ ABSL_GUARDED_BY(mu_);
  bool running_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace kvstow
