// Moves records between device and host memory by the device's copy engine, a batch at a time, on a
// background thread of the executor. A batch that the device fails at is told as failed, so the
// records stay where they were.
//
// Thread-safe.
#pragma once

#include "gpu/api/device.h"
#include "server/core/record_mover.h"

namespace kvstow {

class DeviceMover final : public RecordMover {
 public:
  // REQUIRES that all tiers it is given are PagedTiers. Both outlive it.
  DeviceMover(gpu::Device* device, Executor* executor) : device_(*device), executor_(*executor) {}
  void Move(std::vector<RecordMove> moves, Done done) override;

 private:
  gpu::Device& device_;
  Executor& executor_;
};

}  // namespace kvstow
